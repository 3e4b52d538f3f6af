"""Every mistake that a user can make has its message, word for word.

A case is a folder bad_configs/NAME with `command.txt` (nearkv's arguments), `expected.txt` (its
stderr) and the files that the command reads. The command runs in a copy of the folder. It must
end with status 2, print nothing to stdout and leave no file behind. `$NEARKV_HOME` stands for the
folder of the shipped configs, `$FOLDER` for the one that the copy is in.

Usage: bad_configs_check.py [--update] [NAME...]   (--update writes expected.txt; read the diff!)
Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import difflib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = Path(__file__).resolve().parent / "bad_configs"
FEWEST_CASES = 20
USER_ERROR = 2
NOT_COPIED = shutil.ignore_patterns("command.txt", "expected.txt")


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


def run(case, binary, source):
    """(stderr with placeholders, what else is wrong)."""
    arguments = shlex.split((case / "command.txt").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / case.name
        shutil.copytree(case, work, ignore=NOT_COPIED)
        before = files_below(work)
        done = subprocess.run(
            [binary, *arguments], cwd=work, capture_output=True, text=True, check=False,
            env={**os.environ, "NEARKV_HOME": str(source)},
        )
        after = files_below(work)
        folders = [path for path in work.rglob("*") if path.is_dir()]
    wrong = []
    if done.returncode != USER_ERROR:
        wrong.append(f"ended with status {done.returncode} instead of {USER_ERROR}")
    if done.stdout:
        wrong.append(f"printed to stdout: {done.stdout[:200]!r}")
    if after != before or folders:
        wrong.append(f"left files behind: {sorted(map(str, after.keys() - before.keys()))}")
    message = done.stderr.replace(str(source), "$NEARKV_HOME")
    return message.replace(os.path.realpath(folder), "$FOLDER"), wrong


def check(case, binary, source, update):
    message, wrong = run(case, binary, source)
    expected_file = case / "expected.txt"
    if update:
        expected_file.write_text(message, encoding="utf-8")
    expected = expected_file.read_text(encoding="utf-8") if expected_file.exists() else ""
    if message != expected:
        wrong += difflib.unified_diff(expected.splitlines(), message.splitlines(),
                                      "expected.txt", "stderr", lineterm="")
    if not message.strip():
        wrong.append("no message")
    return wrong


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--update"]
    update = "--update" in sys.argv[1:]
    binary = os.environ["NEARKV_BINARY"]
    source = Path(os.environ["NEARKV_SOURCE"]).resolve()
    cases = sorted(path for path in CASES.iterdir() if (path / "command.txt").exists())
    chosen = [case for case in cases if not arguments or case.name in arguments]
    failed = 0
    for case in chosen:
        wrong = check(case, binary, source, update)
        failed += bool(wrong)
        for line in wrong:
            print(f"{case.name}: {line}")
    print(f"{len(chosen)} cases, {failed} failed")
    if not arguments and len(cases) < FEWEST_CASES:
        print(f"only {len(cases)} cases; there must be at least {FEWEST_CASES}")
        failed += 1
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
