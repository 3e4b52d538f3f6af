"""python3 -m nearkv sensitivity SPEC.json: what `nearkv sensitivity` runs."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from .program import Error
from .sensitivity import Analysis, SpecError, analyse

BAD_INPUT = 2
PACKAGE_MISSING = 69
PLOTTER = "/usr/bin/python3"  # has Debian's matplotlib, which another numpy would break
PLOT = Path(__file__).resolve().parents[1] / "sensitivity.py"


def table(analysis: Analysis) -> str:
    """The parameters with their numbers, aligned."""
    rows = [[key for key in analysis.rows[0] if key != "path"]]
    rows += [[f"{value:.4g}" if isinstance(value, float) else value
              for key, value in row.items() if key != "path"] for row in analysis.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths)))
             for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def draw(folder: Path) -> str:
    """The picture's file, or why there is none."""
    done = subprocess.run([PLOTTER, "-B", str(PLOT), str(folder / "sensitivity.csv"),
                           str(folder / "sensitivity")], capture_output=True, text=True,
                          check=False)
    return (str(folder / "sensitivity.png") if done.returncode == 0
            else f"no picture: {done.stderr.strip().splitlines()[-1]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="nearkv", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("sensitivity")
    command.add_argument("spec", help="what is asked: a JSON file")
    command.add_argument("--out", default=None, help="folder for sweeps, table and picture")
    command.add_argument("--jobs", type=int, default=None, help="points at a time")
    command.add_argument("--cache", default=None, help="results that sweeps share; '': none")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args()
    folder = Path(options.out or Path("results") / Path(options.spec).stem)
    try:
        analysis = analyse(options.spec, folder, options.jobs, options.cache)
    except SpecError as problem:
        print(f"{options.spec}: {problem}", file=sys.stderr)
        return BAD_INPUT
    except Error as problem:
        print(problem, file=sys.stderr)
        return problem.status
    except ModuleNotFoundError as missing:
        print(missing, file=sys.stderr)
        return PACKAGE_MISSING
    if options.json:
        print(json.dumps({"sentence": analysis.sentence, "nominal": analysis.nominal,
                          "parameters": analysis.rows}, indent=2))
        return 0
    print(f"{analysis.spec.title}\n\n{table(analysis)}\n\n{analysis.sentence}")
    print(f"table: {folder / 'sensitivity.csv'}\npicture: {draw(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
