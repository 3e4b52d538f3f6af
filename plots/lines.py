"""Lines with a mark at each point: what changes along one quantity, by series."""

import style

import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

SIZE = (style.COLUMN_WIDTH, 2.2)
PAPER = {"marker": "D", "color": "black", "markerfacecolor": "white", "markersize": 4,
         "markeredgewidth": 0.8, "linestyle": "none", "zorder": 5}


def new_axes():
    return plt.subplots(figsize=SIZE)


def plain(value, _position=None):
    return f"{value:g}"


def draw_line(axes, points, look, errors=None):
    """`points` are (x, y), `look` (label, colour, marker); `errors` (lowest, highest) by point."""
    label, colour, marker = look
    xs, ys = [x for x, _ in points], [y for _, y in points]
    bars = None
    if errors:
        bars = [[max(0, y - low) for y, (low, _) in zip(ys, errors)],
                [max(0, high - y) for y, (_, high) in zip(ys, errors)]]
    axes.errorbar(xs, ys, yerr=bars, label=label, color=colour, marker=marker, markersize=4,
                  linewidth=1.2, elinewidth=0.7, capsize=1.8, capthick=0.7)


def draw_paper(axes, points, label):
    axes.plot([x for x, _ in points], [y for _, y in points], label=label, **PAPER)


def mark_values(axis, values, texts=None):
    """Ticks at the values and nowhere else."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(
        lambda value, position: texts[position] if texts else plain(value)))


def legend(axes, columns):
    axes.legend(loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=columns, frameon=False,
                handlelength=1.8, handletextpad=0.4, columnspacing=1.0)
