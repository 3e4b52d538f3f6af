"""Scatter plot of a validation: simulated against reference, and their ratio; axes logarithmic.

A colour and a mark a suite; test rows are filled, fit rows hollow. Lines: equal, and 10 % above
and below. Truths have no number and are left out. Reads the rows of `nearkv validate --json` and
writes STEM.png.
"""

import json

import style

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from validation_rows import COLOURS, MARKS, TOLERANCE, is_number, scaled


def draw_suite(axes, rows, colour, mark):
    above, below = axes
    for role, fill in (("fit", "none"), ("test", colour)):
        points = [scaled(row) for row in rows if row["role"] == role]
        look = {"markersize": 3.5, "color": colour, "markerfacecolor": fill, "linestyle": "",
                "markeredgewidth": 0.7, "alpha": 0.85, "marker": mark,
                "zorder": 3 if role == "test" else 2}
        above.plot([x for x, _ in points], [y for _, y in points], **look)
        below.plot([x for x, _ in points], [y / x for x, y in points], **look)


def draw_lines(axes, low, high):
    above, below = axes
    for factor in (1, 1 - TOLERANCE, 1 + TOLERANCE):
        look = {"color": "black", "linewidth": 0.7} if factor == 1 else {
            "color": "#888888", "linewidth": 0.6, "linestyle": "--"}
        above.plot([low, high], [low * factor, high * factor], zorder=1, **look)
        below.plot([low, high], [factor, factor], zorder=1, **look)


def legend_of(suites):
    entries = [Line2D([], [], linestyle="", marker=mark, color=colour, markersize=4,
                      label=f"{name} ({count})")
               for name, count, colour, mark in suites]
    grey = "#555555"
    return entries + [
        Line2D([], [], linestyle="", marker="o", color=grey, markersize=4, label="test row"),
        Line2D([], [], linestyle="", marker="o", color=grey, markerfacecolor="none", markersize=4,
               label="fit row"),
        Line2D([], [], color="black", linewidth=0.7, label="equal"),
        Line2D([], [], linestyle="--", color="#888888", linewidth=0.6, label="10 % off"),
    ]


def plain_number(value, _position):
    return f"{value:g}"


def set_up(axes, low, high):
    above, below = axes
    for one in axes:
        one.set_xscale("log")
        one.set_yscale("log")
        one.set_xlim(low, high)
        one.grid()
    above.set_ylim(low, high)
    below.yaxis.set_major_formatter(FuncFormatter(plain_number))
    below.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    above.set_ylabel("simulated")
    below.set_ylabel("simulated / reference")
    below.set_xlabel("reference (s, GB, GB/s, token/s or a ratio)")


def draw(rows):
    rows = [row for row in rows if is_number(row["reference"]) and is_number(row["simulated"])]
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(style.TEXT_WIDTH * 0.75, 5.2),
                                gridspec_kw={"height_ratios": (2, 1), "hspace": 0.06})
    values = [value for row in rows for value in scaled(row)] or [1]
    low, high = min(values) / 2, max(values) * 2
    set_up(axes, low, high)
    draw_lines(axes, low, high)
    suites = []
    for i, name in enumerate(dict.fromkeys(row["suite"] for row in rows)):
        own = [row for row in rows if row["suite"] == name]
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        suites.append((name, len(own), colour, mark))
    for name, _, colour, mark in sorted(suites, key=lambda suite: -suite[1]):  # few lie above many
        draw_suite(axes, [row for row in rows if row["suite"] == name], colour, mark)
    axes[0].legend(handles=legend_of(suites), loc="upper left", bbox_to_anchor=(1.01, 1.0),
                   frameon=False)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    with open(data, encoding="utf-8") as file:
        rows = json.load(file)
    style.save(draw(rows), stem, endings=("png",))


main()
