"""The picture of a validation is drawn from rows of every kind, the same bytes each time."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PLOTS = Path(__file__).resolve().parent
SKIPPED = 77


def row(suite, role, reference, simulated, unit="s"):
    return {"suite": suite, "id": "x", "role": role, "reference": reference,
            "simulated": simulated, "unit": unit, "error": None, "tolerance": 0.1, "pass": True,
            "note": ""}


def draw(folder, rows, name):
    data = folder / f"{name}.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    command = [sys.executable, "-B", str(PLOTS / "validation.py"), str(data), str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", f"a warning: {done.stderr}"
    assert not (folder / f"{name}.pdf").exists()
    return (folder / f"{name}.png").read_bytes()


def check_pictures(folder):
    rows = [row("one", "test", 1.0, 1.1), row("one", "fit", 2e-3, 1e-3),
            row("two", "test", 5e9, 6e9, "B"), row("two", "test", 7.0, None),
            row("three", "fit", 4.0, 4.4, "us")]
    first = draw(folder, rows, "first")
    assert first.startswith(b"\x89PNG")
    assert first == draw(folder, rows, "second"), "two runs differ"
    truths = [row("one", "test", True, True, "1"), row("two", "test", True, None, "1")]
    assert first != draw(folder, truths, "truths")
    assert first == draw(folder, rows + truths, "both"), "truths are drawn"


def main():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        check_pictures(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
