"""Accuracy against compression: perplexity over dense attention's, and error of the outputs.

    accuracy.py PERPLEXITY.json TENSORS.json STEM

The results are those of validation/accuracy/perplexity.py and tensors.py. Error bars are standard
errors over the segments of text. SparQ and SparF coincide: SparF's output is SparQ's to the bit.
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

import style

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours as in style.py: SparF and SparQ have those of the systems that use them.
# The ring of SparQ is wide enough to be seen around SparF's mark.
METHODS = {
    "sparq": {"label": "SparQ", "color": "#D55E00", "marker": "o", "markersize": 6.5,
              "markerfacecolor": "none", "linewidth": 2.6, "alpha": 0.75},
    "sparf": {"label": "SparF", "color": "#0072B2", "marker": "o"},
    "h2o": {"label": "H2O", "color": "#009E73", "marker": "s"},
    "streaming": {"label": "StreamingLLM", "color": "#E69F00", "marker": "^"},
    "window": {"label": "local window", "color": "#CC79A7", "marker": "v"},
}
WIDE_AXIS = 30  # a range with a larger ratio is marked at powers of ten only
MARKS = (1, 1.02, 1.05, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)
EDGE = 1.2  # beyond the first and the last ratio
MARK_DISTANCE = 0.07  # of an axis' height, so that their labels do not touch


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def points(results, method, value, error=None):
    """(ratios, values, errors) of a method below ratio 1, from the highest ratio down."""
    rows = [row for row in results["configurations"]
            if row["method"] == method and row["ratio"] < 1]
    rows.sort(key=lambda row: -row["ratio"])
    errors = [row[error] or 0 for row in rows] if error else None
    return [row["ratio"] for row in rows], [row[value] for row in rows], errors


def fraction(value, _position=None):
    return str(Fraction(value))


def plain(value, _position=None):
    return f"{value:g}"


def draw_methods(axes, results, value, error=None, offset=0.0):
    """`offset` is added to values; returns the lowest and the highest drawn."""
    drawn = []
    for method, look in METHODS.items():
        ratios, values, errors = points(results, method, value, error)
        if not ratios:
            continue
        values = [each + offset for each in values]
        drawn += values
        axes.errorbar(ratios, values, yerr=errors, elinewidth=0.7, capsize=1.8, capthick=0.7,
                      **{"linewidth": 1.1, "markersize": 3.2, "markeredgewidth": 1.0, **look})
    return min(drawn), max(drawn)


def shape_axes(axes, label):
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(fraction))
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.grid(axis="y")
    axes.set_ylabel(label)


def spaced_marks(low, high):
    """Those of MARKS between low and high that leave room for each other on a log axis."""
    chosen = []
    smallest = (high / low) ** MARK_DISTANCE
    for mark in MARKS:
        if low <= mark <= high and (not chosen or mark > chosen[-1] * smallest):
            chosen.append(mark)
    return chosen


def draw_perplexity(axes, results):
    axes.axhline(1, color="#777777", linewidth=0.8, linestyle="--", zorder=1)
    _, high = draw_methods(axes, results, "increase", "increase_standard_error", offset=1.0)
    shape_axes(axes, "perplexity / dense")
    low, high = 0.97, high * 1.25
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(spaced_marks(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.annotate("dense", (1, 1), xycoords=("axes fraction", "data"), xytext=(2, 0),
                  textcoords="offset points", ha="left", va="center", fontsize=6, color="#555555")


def draw_error(axes, results):
    low, high = draw_methods(axes, results, "error_mean")
    shape_axes(axes, "output error (mean)")
    axes.set_ylim(low / 1.4, high * 1.4)
    if high < low * WIDE_AXIS:
        axes.yaxis.set_minor_formatter(FuncFormatter(plain))
    else:
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of dense attention's traffic")


def draw(perplexity, tensors):
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(style.COLUMN_WIDTH, 3.4),
                                          height_ratios=(1.15, 1))
    draw_perplexity(upper, perplexity)
    draw_error(lower, tensors)
    ratios = sorted({row["ratio"] for results in (perplexity, tensors)
                     for row in results["configurations"] if row["ratio"] < 1})
    lower.xaxis.set_major_locator(FixedLocator(ratios))
    lower.set_xlim(max(ratios) * EDGE, min(ratios) / EDGE)  # more compression to the right
    figure.align_ylabels()
    figure.subplots_adjust(hspace=0.1)
    handles, labels = upper.get_legend_handles_labels()
    upper.legend([handle[0] for handle in handles], labels, loc="lower center",
                 bbox_to_anchor=(0.44, 1.0), ncol=len(labels), frameon=False, handlelength=1.5,
                 handletextpad=0.4, columnspacing=0.9)
    return figure


def main():
    if len(sys.argv) != 4:
        print(f"usage: {Path(sys.argv[0]).name} PERPLEXITY.json TENSORS.json STEM",
              file=sys.stderr)
        sys.exit(2)
    perplexity, tensors, stem = sys.argv[1:]
    style.apply()
    style.save(draw(read(perplexity), read(tensors)), stem)


if __name__ == "__main__":
    main()
