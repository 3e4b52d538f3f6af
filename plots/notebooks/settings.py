"""What the notebooks share: where the package is, how large they are, how pictures are shown.

    python3 design_sweep.py [FOLDER] [--quick] [--workers N]

In Jupyter and VS Code, which pass arguments of their own, the defaults hold; start them in this
folder.
"""

import argparse
import os
import sys
from pathlib import Path

FOLDER_OF_PLOTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(FOLDER_OF_PLOTS))

IS_INTERACTIVE = "ipykernel" in sys.modules

_parser = argparse.ArgumentParser(description="a notebook as a script")
_parser.add_argument("folder", nargs="?", default="results",
                     help="for results and pictures; default: results")
_parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
_parser.add_argument("--workers", type=int, default=os.cpu_count(), help="points at a time")
_options = _parser.parse_args([] if IS_INTERACTIVE else None)

QUICK: bool = _options.quick
WORKERS: int = _options.workers
FOLDER = Path(_options.folder)
FOLDER.mkdir(parents=True, exist_ok=True)


def show(picture: str | os.PathLike) -> None:
    """In a notebook the picture, in a terminal where it is."""
    if IS_INTERACTIVE:
        from IPython.display import Image, display
        display(Image(filename=os.fspath(picture)))
    else:
        print(f"picture: {picture}")
