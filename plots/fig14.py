"""Figure 14: throughput against batch size, a bar a system, log axis.

An x on the axis marks a system that runs out of memory at this batch. Error bars hold 90 % of the
samples of the uncertain constants where the figure was made with --samples, else what sampling
decode steps may have cost in accuracy; where they are wide enough to see.
"""

import style

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

GROUP_WIDTH = 0.86  # of the distance between two batches
COLUMN_SYSTEMS = 4  # more bars and labels than these need the width of the page
VISIBLE = 1.01  # an interval whose ends differ by less would only thicken the bar's edge


def in_order(values):
    return list(dict.fromkeys(values))


def decade_below(value):
    """The power of ten at or below a positive number."""
    return 10.0 ** int(f"{value:e}".split("e")[1])


def limits(rows):
    """Of the axis: a decade clearly below the lowest bar, and room above the highest."""
    heights = [style.number(row.get("throughput", "")) for row in rows]
    heights = [height for height in heights if height]
    lowest, highest = (min(heights), max(heights)) if heights else (1, 1)
    return decade_below(lowest / 1.3), highest * 1.5


def error_bar(row, height):
    """Its ends; matplotlib wants them on both sides of the bar's height."""
    low = style.number(row.get("throughput_p5", ""))
    high = style.number(row.get("throughput_p95", ""))
    if low is None or high is None:
        low, high = (style.number(row[f"throughput_{end}"]) for end in ("lowest", "highest"))
    return min(low, height), max(high, height)


def draw_system(axes, rows, system, offset, width, bottom):
    label, colour, hatch = style.look_of(system)
    legend = label
    for row in rows:
        x = row["position"] + offset
        height = style.number(row.get("throughput", ""))
        if height is None:
            mark_overflow(axes, x, row["memory"], bottom)
            continue
        low, high = error_bar(row, height)
        axes.bar(x, height, width, color=colour, hatch=hatch, edgecolor="black", linewidth=0.4,
                 label=legend)
        legend = None
        if high > low * VISIBLE:
            axes.errorbar(x, height, [[height - low], [high - height]], fmt="none", ecolor="black",
                          elinewidth=0.6, capsize=1.2, capthick=0.6)
    if legend:  # nothing ran, but the marks need their name
        axes.bar(0, 0, 0, color=colour, hatch=hatch, edgecolor="black", linewidth=0.4,
                 label=legend)


def mark_overflow(axes, x, memory, bottom):
    axes.plot(x, bottom, marker="x", color="#b00000", markersize=3.5, markeredgewidth=0.9,
              clip_on=False, zorder=5)
    label = f"OOM {memory.split(' ')[0]}"
    axes.annotate(label, (x, bottom), xytext=(0, 4), textcoords="offset points",
                  rotation=90, ha="center", va="bottom", fontsize=6, color="#b00000")


def plain_number(value, _position):
    return f"{value:g}"


def draw(rows, units):
    batches = in_order(row["batch"] for row in rows)
    systems = in_order(row["series"] for row in rows)
    for row in rows:
        row["position"] = batches.index(row["batch"])
    is_narrow = len(systems) <= COLUMN_SYSTEMS
    size = (style.COLUMN_WIDTH, 2.1) if is_narrow else (style.TEXT_WIDTH, 2.4)
    figure, axes = plt.subplots(figsize=size)
    axes.set_yscale("log")
    bottom, top = limits(rows)
    width = GROUP_WIDTH / len(systems)
    for i, system in enumerate(systems):
        offset = (i - (len(systems) - 1) / 2) * width
        own = [row for row in rows if row["series"] == system]
        draw_system(axes, own, system, offset, width, bottom)
    axes.set_ylim(bottom, top)
    axes.set_xlim(-0.55, len(batches) - 0.45)
    axes.xaxis.set_major_locator(FixedLocator(range(len(batches))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(batches)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.grid(axis="y")
    axes.set_xlabel(f"batch size ({units['batch']})")
    axes.set_ylabel(f"throughput ({units.get('throughput', 'token/s')})")
    axes.legend(loc="lower center", bbox_to_anchor=(0.46 if is_narrow else 0.5, 1.0),
                ncol=len(systems), frameon=False, handlelength=1.4, handletextpad=0.4,
                columnspacing=0.8)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    rows, units = style.read_table(data)
    style.save(draw(rows, units), stem)


main()
