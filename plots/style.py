"""What all figures share: fonts, colours, reading tables, writing pictures.

A script is called as `NAME.py DATA.csv STEM` and writes STEM.pdf and STEM.png. Equal data give
equal bytes with the same matplotlib: no dates, no user settings, one bundled font.
"""

import csv
import io
import json
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
import matplotlib.backends.backend_agg  # noqa: E402  (before plots/several.py forks)
import matplotlib.backends.backend_pdf  # noqa: E402
import matplotlib.colors  # noqa: E402
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


# What a series is besides its system: (ending of its name, addition to the label, lightness). A
# system keeps its hue; another number of drives, tier or setting is a shade of it.
VARIANTS = (
    ("_2", ", 2 drives", 0.62),
    ("_vram", ", KV in VRAM", 1.75),
    ("_host", ", KV in host memory", 1.4),
    ("_ssd", ", KV on SSD", 1.0),
    ("_retry", ", read retry", 0.62),
)

# Models and parts of a time are no systems: other hues, of Paul Tol's muted scheme.
MODELS = {
    "opt_13b": ("OPT-13B", "#332288", ""),
    "llama_2_13b": ("Llama-2-13B", "#44AA99", "////"),
    "opt_30b": ("OPT-30B", "#DDCC77", "...."),
}
PARTS = {
    "kv_access": ("KV access", "#CC6677"),
    "weights": ("weights (GEMMs)", "#332288"),
    "weight_wait": ("weights on their way", "#6655AA"),
    "weight_copy": ("weights on their way", "#6655AA"),
    "gpu_attention": ("attention, GPU", "#88CCEE"),
    "gpu_other": ("other GPU work", "#999999"),
    "gpu_compute": ("GPU", "#332288"),
    "csd_attention": ("engine, firmware", "#44AA99"),
    "submission": ("submission", "#DDCC77"),
    "upload": ("q, k, v to CSD", "#117733"),
    "download": ("output to GPU", "#999933"),
    "activations": ("activations", "#AA4499"),
    "cpu_attention": ("attention, CPU", "#882255"),
    "rest": ("below 0.5 % each", "#DDDDDD"),
}


def shade(colour, lightness):
    """A colour nearer to black (below 1) or to white (above 1; 2 is white)."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    if lightness <= 1:
        return tuple(part * lightness for part in (red, green, blue))
    return tuple(part + (1 - part) * (lightness - 1) for part in (red, green, blue))


def look_of(series):
    """(label, colour, hatch) of a system, of a variant of one, or of a model; an unknown one is
    drawn in plain white."""
    if series in SYSTEMS:
        return SYSTEMS[series]
    if series in MODELS:
        return MODELS[series]
    for ending, addition, lightness in VARIANTS:
        if series.endswith(ending) and series.removesuffix(ending) in SYSTEMS:
            label, colour, hatch = SYSTEMS[series.removesuffix(ending)]
            return label + addition, shade(colour, lightness), hatch
    if series.startswith("percent_"):  # "percent_12_5", of SparF's compression
        share = series.removeprefix("percent_").replace("_", ".")
        return f"{share} % of the traffic", "#ffffff", ""
    return series, "#ffffff", ""


def part_look(part):
    """(label, colour) of a part of a time; an unknown one by its name, in grey."""
    return PARTS.get(part, (part.replace("_", " "), "#777777"))


def with_unit(label, unit):
    return label if unit in ("", "1") else f"{label} ({unit})"


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


def bounds(row, metric):
    """(lowest, highest) of a row's metric: of samples of the constants, else what sampling decode
    steps may have cost; None where the table has neither."""
    for low, high in (("p5", "p95"), ("lowest", "highest")):
        ends = [number(row.get(f"{metric}_{end}", "")) for end in (low, high)]
        if None not in ends:
            return tuple(ends)
    return None


def read_claims(path):
    """The claims beside a table, by id; none where there is no such file."""
    file = Path(path).with_suffix(".claims.json")
    if not file.exists():
        return {}
    document = json.loads(file.read_text(encoding="utf-8"))
    return {claim["id"]: claim for claim in document["claims"]}


def write_atomically(path, data):
    temporary = Path(f"{path}.part{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(figure, stem, endings=("pdf", "png")):
    """Writes STEM.pdf and STEM.png whole or not at all, and without a date."""
    undated = {
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "png": {"Software": None},
    }
    figure.set_dpi(300)
    figure.canvas.draw()
    box = figure.get_tightbbox(figure.canvas.get_renderer()).padded(0.02)  # once for all endings
    for ending in endings:
        picture = io.BytesIO()
        figure.savefig(picture, format=ending, dpi=300, bbox_inches=box, metadata=undated[ending])
        write_atomically(f"{stem}.{ending}", picture.getvalue())
    plt.close(figure)


def arguments(data="DATA.csv"):
    """(data, stem) from the command line; `data` says what the first one is."""
    if len(sys.argv) != 3:
        print(f"usage: {Path(sys.argv[0]).name} {data} STEM", file=sys.stderr)
        sys.exit(2)
    return sys.argv[1], sys.argv[2]
