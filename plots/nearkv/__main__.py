"""python3 -m nearkv sensitivity SPEC.json: what `nearkv sensitivity` runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .program import Error
from .sensitivity import SpecError, analyse
from .shown import draw, table

BAD_INPUT = 2
PACKAGE_MISSING = 69


def main() -> int:
    parser = argparse.ArgumentParser(prog="nearkv", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("sensitivity")
    command.add_argument("spec", help="what is asked: a JSON file")
    command.add_argument("--out", default=None, help="folder for sweeps, table and picture")
    command.add_argument("--jobs", type=int, default=None, help="points at a time")
    command.add_argument("--cache", default=None, help="results that sweeps share; '': none")
    command.add_argument("--max-wall", default=None, help="end each run that takes longer: 10min")
    command.add_argument("--max-memory", default=None, help="end each run that takes more: 4GiB")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    command.add_argument("--allow-outside", nargs="?", const=True, action="append", default=[],
                         help="let the systems name all files, or with =FOLDER those below it")
    options = parser.parse_args()
    everything = True in options.allow_outside
    folder = Path(options.out or Path("results") / Path(options.spec).stem)
    try:
        analysis = analyse(options.spec, folder, options.jobs, options.cache, options.max_wall,
                           options.max_memory, everything or options.allow_outside)
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
