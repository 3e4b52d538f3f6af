"""Where a result comes from: command, versions, date; and writing it."""

import datetime
import json
import os
import platform
import shlex
from pathlib import Path

import numpy


def of_run(program, arguments, **versions):
    return {"command": shlex.join([f"validation/accuracy/{program}", *map(str, arguments)]),
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), "numpy": numpy.__version__,
                         **versions}}


def write_json(path, content):
    """Whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
