"""The accuracy figure is drawn from the committed results, the same bytes each time."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

PLOTS = Path(__file__).resolve().parent
RESULTS = PLOTS.parent / "validation" / "accuracy" / "results"
SKIPPED = 77
USAGE = 2


def draw(*arguments):
    command = [sys.executable, "-B", str(PLOTS / "accuracy.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_pictures(folder):
    for stem in ("first", "second"):
        done = draw(RESULTS / "perplexity.json", RESULTS / "tensors.json", folder / stem)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", f"a warning: {done.stderr}"
    for ending, signature in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        first, second = [(folder / f"{stem}.{ending}").read_bytes() for stem in ("first", "second")]
        assert first.startswith(signature), f"{ending}: no such picture"
        assert len(first) > 2000, f"{ending}: only {len(first)} bytes"
        assert first == second, f"{ending}: two runs differ"
        assert b"CreationDate" not in first, f"{ending}: dated"


def check_one_segment_and_one_method(folder):
    """No standard errors, and methods that a result does not have."""
    stripped = {}
    for name in ("perplexity", "tensors"):
        content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        content["configurations"] = [
            {**row, "increase_standard_error": None} for row in content["configurations"]
            if row["method"] in ("dense", "sparf")]
        stripped[name] = folder / f"{name}.json"
        stripped[name].write_text(json.dumps(content), encoding="utf-8")
    done = draw(stripped["perplexity"], stripped["tensors"], folder / "sparf")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert (folder / "sparf.png").exists()


def check_usage(folder):
    done = draw(folder / "sparf")
    assert done.returncode == USAGE, done
    assert done.stderr == "usage: accuracy.py PERPLEXITY.json TENSORS.json STEM\n", done.stderr


def main():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
        return SKIPPED
    for check in (check_pictures, check_one_segment_and_one_method, check_usage):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
