"""The plot script draws a table with every kind of cell, the same bytes each time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLOTS = Path(__file__).resolve().parent
SKIPPED = 77
PACKAGE_MISSING = 69


def draw(data, stem, **environment):
    command = [sys.executable, "-B", str(PLOTS / "fig14.py"), str(data), str(stem)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def check_pictures(folder):
    fixture = PLOTS / "fixtures" / "fig14.csv"
    for stem in ("first", "second"):
        done = draw(fixture, folder / stem)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", f"a warning: {done.stderr}"
    for ending, signature in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        first, second = [(folder / f"{stem}.{ending}").read_bytes() for stem in ("first", "second")]
        assert first.startswith(signature), f"{ending}: no such picture"
        assert len(first) > 2000, f"{ending}: only {len(first)} bytes"
        assert first == second, f"{ending}: two runs differ"
        assert b"CreationDate" not in first, f"{ending}: dated"
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["first.pdf", "first.png", "second.pdf", "second.png"], left


def check_intervals_of_samples(folder):
    """They are the error bars where there are some; a table without their columns is drawn too."""
    fixture = (PLOTS / "fixtures" / "fig14.csv").read_text(encoding="utf-8")
    tables = {
        "with": fixture,
        "narrow": fixture.replace(",4,6\n", ",5.1,5.1\n"),
        "without": "".join(line.rsplit(",", 2)[0] + "\n" for line in fixture.splitlines()),
    }
    pictures = {}
    for name, table in tables.items():
        (folder / f"{name}.csv").write_text(table, encoding="utf-8")
        done = draw(folder / f"{name}.csv", folder / name)
        assert done.returncode == 0, done.stderr
        pictures[name] = (folder / f"{name}.png").read_bytes()
    assert pictures["with"] != pictures["narrow"], "the interval is not drawn"
    assert pictures["narrow"] == pictures["without"], "an interval of no width is drawn"


def check_all_out_of_memory(folder):
    lines = (PLOTS / "fixtures" / "fig14.csv").read_text(encoding="utf-8").splitlines()
    data = folder / "none.csv"
    data.write_text("\n".join([lines[0], *(x for x in lines if "VRAM" in x)]), encoding="utf-8")
    done = draw(data, folder / "none")
    assert done.returncode == 0, done.stderr


def check_wide_with_many_systems(folder):
    header, *lines = (PLOTS / "fixtures" / "fig14.csv").read_text(encoding="utf-8").splitlines()
    lines += [line.replace("flexgen,", name) for line in lines if line.startswith("flexgen,")
              for name in ("flexgen_gds,", "recompute_static,")]
    data = folder / "many.csv"
    data.write_text("\n".join([header, *lines]), encoding="utf-8")
    widths = []
    for source in (PLOTS / "fixtures" / "fig14.csv", data):
        done = draw(source, folder / "picture")
        assert done.returncode == 0, done.stderr
        widths.append(int.from_bytes((folder / "picture.png").read_bytes()[16:20], "big"))
    assert widths[1] > 1.5 * widths[0], widths


def check_missing_package(folder):
    (folder / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')\n")
    done = draw(PLOTS / "fixtures" / "fig14.csv", folder / "x", PYTHONPATH=str(folder))
    assert done.returncode == PACKAGE_MISSING, done
    assert "python3-matplotlib" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (folder / "x.png").exists()


def main():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
        return SKIPPED
    for check in (check_pictures, check_intervals_of_samples, check_all_out_of_memory,
                  check_wide_with_many_systems, check_missing_package):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
