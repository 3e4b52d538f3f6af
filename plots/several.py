"""Draws several figures and loads matplotlib once: NAME.py DATA.csv STEM, again and again.

    several.py NAME DATA.csv STEM [NAME DATA.csv STEM]...

Each script runs in a child of its own, so that none sees what another left. For each a line is
printed: its exit status, a tab, and the last line that it said.
"""

import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

import style  # noqa: F401  (loads matplotlib, or ends with its own status where it is missing)

PLOTS = Path(__file__).resolve().parent
FAILED = 1


def draw_in_child(name, data, stem, said):
    """Does not return; what the script says goes to the file `said`."""
    status = FAILED
    try:
        for descriptor in (1, 2):
            os.dup2(said.fileno(), descriptor)
        script = str(PLOTS / f"{name}.py")
        sys.argv = [script, data, stem]
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def draw(name, data, stem):
    """(exit status, last line that the script said)."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            draw_in_child(name, data, stem, said)
        _, ended = os.waitpid(child, 0)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return os.waitstatus_to_exitcode(ended), lines[-1] if lines else ""


def main():
    words = sys.argv[1:]
    for i in range(0, len(words), 3):
        status, line = draw(*words[i:i + 3])
        print(f"{status}\t{line}", flush=True)


main()
