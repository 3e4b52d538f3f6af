"""Bars by axis value, one a series, on a log axis: throughput figures.

An x on the axis marks a series that runs out of memory there. Error bars hold 90 % of the samples
of the uncertain constants where the figure was made with --samples, else what sampling decode steps
may have cost in accuracy; where they are wide enough to see.
"""

import style

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

GROUP_WIDTH = 0.86  # of the distance between two groups
COLUMN_SERIES = 4  # more bars and labels than these need the width of the page
COLUMN_BARS = 24  # likewise
LEGEND_LINE = 7  # labels of the legend in one line of the page's width
NARROW_LETTERS = 48  # likewise in a column's width
LABEL_WIDTH = 0.1  # of the distance between two groups, below which bars are narrower than a label
VISIBLE = 1.01  # an interval whose ends differ by less would only thicken the bar's edge
OVERFLOW_COLOUR = "#b00000"


def in_order(values):
    return list(dict.fromkeys(values))


def decade_below(value):
    """The power of ten at or below a positive number."""
    return 10.0 ** int(f"{value:e}".split("e")[1])


def limits(rows, metric):
    """Of the axis: a decade clearly below the lowest bar, and room above the highest."""
    heights = [style.number(row.get(metric, "")) for row in rows]
    heights = [height for height in heights if height]
    lowest, highest = (min(heights), max(heights)) if heights else (1, 1)
    return decade_below(lowest / 1.3), highest * 1.5


def error_bar(row, metric, height):
    """Its ends; matplotlib wants them on both sides of the bar's height."""
    low, high = style.bounds(row, metric) or (height, height)
    return min(low, height), max(high, height)


def draw_series(axes, rows, series, metric, offset, width, overflows):
    """Adds (x, memory) of what did not run to `overflows`."""
    label, colour, hatch = style.look_of(series)
    look = {"color": colour, "hatch": hatch, "edgecolor": "black", "linewidth": 0.4}
    legend = label
    for row in rows:
        x = row["position"] + offset
        height = style.number(row.get(metric, ""))
        if height is None:
            overflows.append((x, (row["memory"] or row["status"]).split(" ")[0]))
            continue
        low, high = error_bar(row, metric, height)
        axes.bar(x, height, width, label=legend, **look)
        legend = None
        if high > low * VISIBLE:
            axes.errorbar(x, height, [[height - low], [high - height]], fmt="none", ecolor="black",
                          elinewidth=0.6, capsize=1.2, capthick=0.6)
    if legend:  # nothing ran, but the marks need their name
        axes.bar(0, 0, 0, label=legend, **look)


def overflow_labels(overflows, width):
    """(x, memory) of the labels: one for neighbours whose bars are too narrow for one each."""
    groups = []
    for x, memory in sorted(overflows):
        is_next = groups and groups[-1][1] == memory and x - groups[-1][0][-1] < 1.5 * width
        if is_next and width < LABEL_WIDTH:
            groups[-1][0].append(x)
        else:
            groups.append(([x], memory))
    return [(sum(places) / len(places), memory) for places, memory in groups]


def mark_overflows(axes, overflows, width, bottom):
    axes.plot([x for x, _ in overflows], [bottom] * len(overflows), marker="x", linestyle="none",
              color=OVERFLOW_COLOUR, markersize=3.5, markeredgewidth=0.9, clip_on=False, zorder=5)
    for x, memory in overflow_labels(overflows, width):
        axes.annotate(f"OOM {memory}", (x, bottom), xytext=(0, 4), textcoords="offset points",
                      rotation=90, ha="center", va="bottom", fontsize=6, color=OVERFLOW_COLOUR)


def plain_number(value, _position):
    return f"{value:g}"


def shape_axes(axes, values, limits_of_axis):
    axes.set_ylim(*limits_of_axis)
    axes.set_xlim(-0.55, len(values) - 0.45)
    axes.xaxis.set_major_locator(FixedLocator(range(len(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(values)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.grid(axis="y")


def draw(rows, units, metric="throughput", axis="batch", axis_label="batch size"):
    values = in_order(row[axis] for row in rows)
    names = in_order(row["series"] for row in rows)
    for row in rows:
        row["position"] = values.index(row[axis])
    is_narrow = len(names) <= COLUMN_SERIES and len(names) * len(values) <= COLUMN_BARS
    size = (style.COLUMN_WIDTH, 2.1) if is_narrow else (style.TEXT_WIDTH, 2.4)
    figure, axes = plt.subplots(figsize=size)
    axes.set_yscale("log")
    bottom, top = limits(rows, metric)
    width = GROUP_WIDTH / len(names)
    overflows = []
    for i, series in enumerate(names):
        offset = (i - (len(names) - 1) / 2) * width
        own = [row for row in rows if row["series"] == series]
        draw_series(axes, own, series, metric, offset, width, overflows)
    mark_overflows(axes, overflows, width, bottom)
    shape_axes(axes, values, (bottom, top))
    axes.set_xlabel(style.with_unit(axis_label, units[axis]))
    axes.set_ylabel(style.with_unit(metric.replace("_", " "), units.get(metric, "token/s")))
    letters = sum(len(style.look_of(name)[0]) for name in names)
    is_one_line = letters <= NARROW_LETTERS if is_narrow else len(names) <= LEGEND_LINE
    columns = len(names) if is_one_line else (len(names) + 1) // 2
    axes.legend(loc="lower center", bbox_to_anchor=(0.46 if is_narrow else 0.5, 1.0),
                ncol=columns, frameon=False, handlelength=1.4, handletextpad=0.4,
                columnspacing=0.8)
    return figure


def main(**look):
    data, stem = style.arguments()
    style.apply()
    rows, units = style.read_table(data)
    style.save(draw(rows, units, **look), stem)
