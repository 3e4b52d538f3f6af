"""What all figures share: fonts, colours, reading tables, writing pictures.

A script is called as `NAME.py DATA.csv STEM` and writes STEM.pdf and STEM.png. Equal data give
equal bytes with the same matplotlib: no dates, no user settings, one bundled font.
"""

import csv
import io
import os
import sys
from pathlib import Path

EXIT_PACKAGE_MISSING = 69  # EX_UNAVAILABLE; nearkv then warns and goes on without the picture

try:
    import matplotlib
except ModuleNotFoundError:
    print("matplotlib is missing; install the Debian package python3-matplotlib", file=sys.stderr)
    sys.exit(EXIT_PACKAGE_MISSING)

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

COLUMN_WIDTH = 3.5  # inches: one column of a two-column page
TEXT_WIDTH = 7.16  # inches: both columns

# Okabe and Ito's colours, which people with any colour vision tell apart, and a hatch each for
# print in grey. A system looks the same in every figure.
SYSTEMS = {
    "deepspeed": ("DeepSpeed", "#999999", "////"),
    "flexgen": ("FlexGen", "#E69F00", "\\\\\\\\"),
    "flexgen_gds": ("FlexGen-GDS", "#F0E442", "xxxx"),
    "flexgen_sparq": ("FlexGen-SparQ", "#D55E00", "----"),
    "recompute_static": ("Recompute", "#CC79A7", "++++"),
    "continuous_batching": ("Continuous batching", "#009E73", "oooo"),
    "insti_dense": ("InstI-Dense", "#56B4E9", "...."),
    "insti_sparf": ("InstI-SparF", "#0072B2", ""),
}


def apply():
    """Sets the look; whatever the user's matplotlibrc says."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(
        {
            "font.family": "DejaVu Sans",  # comes with matplotlib
            "font.size": 7,
            "axes.labelsize": 8,
            "axes.titlesize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "hatch.linewidth": 0.4,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.linewidth": 0.4,
            "grid.color": "#dddddd",
            "pdf.fonttype": 42,  # TrueType: text stays text
            "svg.hashsalt": "nearkv",
        }
    )


def look_of(system):
    """(label, colour, hatch) of a system; an unknown one is drawn in plain white."""
    return SYSTEMS.get(system, (system, "#ffffff", ""))


def read_table(path):
    """Rows of a CSV as dicts by column name without the unit, and the units by column name."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    names, units = [], {}
    for title in rows[0]:
        name, _, unit = title.partition(" [")
        names.append(name)
        units[name] = unit.rstrip("]")
    return [dict(zip(names, row)) for row in rows[1:]], units


def number(text):
    """A cell as a number; None where it is empty."""
    return float(text) if text else None


def write_atomically(path, data):
    temporary = Path(f"{path}.part{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(figure, stem):
    """Writes STEM.pdf and STEM.png whole or not at all, and without a date."""
    undated = {
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "png": {"Software": None},
    }
    for ending, metadata in undated.items():
        picture = io.BytesIO()
        figure.savefig(
            picture, format=ending, dpi=300, bbox_inches="tight", pad_inches=0.02, metadata=metadata
        )
        write_atomically(f"{stem}.{ending}", picture.getvalue())
    plt.close(figure)


def arguments():
    """(data file, stem) from the command line."""
    if len(sys.argv) != 3:
        print(f"usage: {Path(sys.argv[0]).name} DATA.csv STEM", file=sys.stderr)
        sys.exit(2)
    return sys.argv[1], sys.argv[2]
