"""How an analysis is shown: its table, its picture."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .sensitivity import Analysis

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
    """Draws what `analyse` wrote into the folder: the picture's file, or why there is none."""
    done = subprocess.run([PLOTTER, "-B", str(PLOT), str(folder / "sensitivity.csv"),
                           str(folder / "sensitivity")], capture_output=True, text=True,
                          check=False)
    return (str(folder / "sensitivity.png") if done.returncode == 0
            else f"no picture: {done.stderr.strip().splitlines()[-1]}")
