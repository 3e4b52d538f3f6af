"""Bars of several quantities of one unit: a group for each point, labelled by series and axis."""

import style

import matplotlib.pyplot as plt

GROUP_WIDTH = 0.84
PREFIX = "quantity/"
SERIES_GAP = 0.5
LOG_FROM = 20  # largest over smallest number


def draw(rows, quantities, axis, labels):
    """`quantities` are (name, label, colour, hatch), `labels` the texts of the axes (x, y, and
    what the numbers are multiplied by)."""
    x_label, y_label, factor = labels
    decades = [style.number(row.get(PREFIX + quantity[0], "")) for row in rows
               for quantity in quantities]
    decades = [value for value in decades if value]
    figure, axes = plt.subplots(figsize=(style.COLUMN_WIDTH, 2.2))
    width = GROUP_WIDTH / len(quantities)
    names = list(dict.fromkeys(row["series"] for row in rows))
    x, ticks = 0.0, []
    for name in names:
        first = x
        for row in (row for row in rows if row["series"] == name):
            for i, (quantity, label, colour, hatch) in enumerate(quantities):
                value = style.number(row.get(PREFIX + quantity, ""))
                offset = (i - (len(quantities) - 1) / 2) * width
                axes.bar(x + offset, factor * (value or 0.0), width, color=colour, hatch=hatch,
                         edgecolor="black", linewidth=0.4, label=label if x == 0 else None)
            ticks.append((x, row[axis]))
            x += 1
        axes.annotate(style.look_of(name)[0], ((first + x - 1) / 2, 0),
                      xycoords=("data", "axes fraction"), xytext=(0, -14),
                      textcoords="offset points", ha="center", va="top", fontsize=7)
        x += SERIES_GAP
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.tick_params(axis="x", length=0)
    if decades and max(decades) > LOG_FROM * min(decades):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axes.set_xlabel(x_label, labelpad=13)
    axes.set_ylabel(y_label)
    axes.grid(axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=min(len(quantities), 3),
                frameon=False, handlelength=1.4, handletextpad=0.4, columnspacing=0.9)
    return figure


def main(quantities, labels, axis="batch"):
    data, stem = style.arguments()
    style.apply()
    rows, _ = style.read_table(data)
    style.save(draw(rows, quantities, axis, labels), stem)
