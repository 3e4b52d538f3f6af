"""The nearkv program: where it is, and how it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: What nearkv run and nearkv sweep end with when points failed or were stopped; their records and
#: rows say why.
POINTS_FAILED = 3


class Error(RuntimeError):
    """The program refused or failed; the text is what it said, `status` its exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


#: What a config may name beside what lies with it: all files, none, or those below these folders.
Outside = bool | Sequence[str | os.PathLike]


def allowing(outside: Outside | None, config: object) -> list[str]:
    """The options for that. Nothing said: all of a dict's, which the caller wrote himself."""
    if outside is None:
        outside = isinstance(config, Mapping)
    if isinstance(outside, bool):
        return ["--allow-outside"] if outside else []
    return [f"--allow-outside={os.fspath(folder)}" for folder in outside]


def limits(max_wall: str | None, max_memory: str | None) -> list[str]:
    """The options that end a run which takes more than "10min" or "4GiB"."""
    return [*(["--max-wall", max_wall] if max_wall else []),
            *(["--max-memory", max_memory] if max_memory else [])]


def call(*arguments: str | os.PathLike, fails: tuple[int, ...] = ()) -> str:
    """Runs the program and returns its stdout; its progress goes to this process's stderr.

    Statuses in `fails` are no error. Raises Error otherwise, and FileNotFoundError when there is
    no program.
    """
    program = os.environ.get("NEARKV_BINARY", str(ROOT / "nearkv"))
    environment = {"NEARKV_HOME": str(ROOT), **os.environ}
    command = [program, *map(os.fspath, arguments)]
    is_seen = sys.stderr is not None and sys.stderr.isatty()
    done = subprocess.run(command, env=environment, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=None if is_seen else subprocess.PIPE)
    if done.returncode != 0 and done.returncode not in fails:
        said = (done.stderr or "").strip() or "see above"
        raise Error(said, done.returncode)
    return done.stdout
