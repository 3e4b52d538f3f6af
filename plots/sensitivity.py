"""Which parameters move a result, and what its values are: SENSITIVITY.csv and its .json.

Where samples.csv lies beside them (Morris, Sobol), the value is also drawn against the parameters
that move it most.
"""

import csv
import json
import math
from pathlib import Path

import style

from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, NullLocator

MOST_PARAMETERS = 12
SCATTERS = 6
SCATTERS_IN_A_ROW = 3
SCATTER_HEIGHT = 1.5  # inches
MEANS = 10  # of samples in the order of the parameter
WIDE = 8  # highest over lowest that asks for a logarithmic axis


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads(Path(path).with_suffix(".json").read_text(encoding="utf-8"))


def draw_tornado(axes, rows, summary):
    for place, row in enumerate(rows):
        low, high = float(row["at_low"]), float(row["at_high"])
        for end, colour in ((low, "#56B4E9"), (high, "#E69F00")):
            axes.barh(place, end - summary["nominal"], left=summary["nominal"], color=colour)
    axes.axvline(summary["nominal"], color="black", linewidth=0.6)
    # Names of parameters are long: the label belongs to the picture, not to the axes.
    axes.figure.supxlabel(style.with_unit(summary["value"], summary["unit"]), fontsize=8)
    handles = [style.plt.Rectangle((0, 0), 1, 1, color=colour)
               for colour in ("#56B4E9", "#E69F00")]
    axes.legend(handles, ["at its lowest", "at its highest"], frameon=False, ncol=2,
                loc="lower right", bbox_to_anchor=(1, 1), columnspacing=1)


def draw_morris(axes, rows, summary):
    axes.barh(range(len(rows)), [float(row["mu_star"]) for row in rows], color="#0072B2",
              xerr=[float(row["mu_star_conf"]) for row in rows], error_kw={"linewidth": 0.6})
    axes.set_xlabel(style.with_unit("mean absolute effect", summary["unit"]))


def draw_sobol(axes, rows, summary):
    del summary
    for key, label, colour, shift in (("S1", "alone", "#56B4E9", -0.2),
                                      ("ST", "with others", "#0072B2", 0.2)):
        axes.barh([place + shift for place in range(len(rows))],
                  [float(row[key]) for row in rows], height=0.38, color=colour, label=label,
                  xerr=[float(row[f"{key}_conf"]) for row in rows], error_kw={"linewidth": 0.6})
    axes.set_xlabel("share of the variance")
    axes.legend(frameon=False, ncol=2, loc="lower left", bbox_to_anchor=(0, 1))


def draw_values(axes, summary):
    axes.hist(summary["values"], bins=40, color="#999999")
    axes.axvline(summary["nominal"], color="black", linewidth=0.8, label="nominal")
    for side in ("above", "below"):
        if summary[side] is not None:
            axes.axvline(summary[side], color="#D55E00", linewidth=0.8, linestyle="--",
                         label=f"{side} {summary[side]:g}?")
    axes.set_xlabel(style.with_unit(summary["value"], summary["unit"]))
    axes.set_ylabel("samples")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncol=3)


def read_samples(data):
    """Numbers by column and units by column; nothing where no samples were kept."""
    file = Path(data).with_name("samples.csv")
    if not file.exists():
        return {}, {}
    rows, units = style.read_table(file)
    return {name: [float(row[name]) for row in rows] for name in rows[0]}, units


def mark_parameter(axis, values, unit):
    """A few ticks with the unit ("36 us"), on a logarithmic axis where the values are wide."""
    low, high = min(values), max(values)
    if low > 0 and high / low > WIDE:
        axis.axes.set_xscale("log")
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
        ticks = [digit * 10.0 ** power for power in range(math.floor(math.log10(low)),
                                                          math.ceil(math.log10(high)) + 1)
                 for digit in (1, 3)]
        axis.set_ticks([tick for tick in ticks if low <= tick <= high][:4])
    else:
        axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(EngFormatter(unit="" if unit == "1" else unit))


def trend(xs, ys):
    """Means of the samples in at most MEANS groups of neighbours; equal xs are in one group."""
    ys_of = {}
    for x, y in zip(xs, ys):
        ys_of.setdefault(x, []).append(y)
    known = sorted(ys_of)
    size = -(-len(known) // MEANS)
    groups = [known[start:start + size] for start in range(0, len(known), size)]
    pooled = [[y for x in group for y in ys_of[x]] for group in groups]
    return ([sum(group) / len(group) for group in groups],
            [sum(group) / len(group) for group in pooled])


def draw_scatter(axes, name, samples, units):
    """Every sample, and means that show the trend."""
    xs, ys = samples[name], samples["value"]
    axes.scatter(xs, ys, s=4, color="#56B4E9", alpha=min(1, 200 / len(xs) + 0.1), linewidths=0,
                 rasterized=True)
    axes.plot(*trend(xs, ys), color="black", linewidth=1)
    mark_parameter(axes.xaxis, xs, units[name])
    axes.set_xlabel(name)


def draw_scatters(figure, rows, summary):
    """Small multiples that share the axis of the value."""
    samples, units = summary["samples"]
    names = [row["parameter"] for row in rows if row["parameter"] in samples][:SCATTERS]
    lines = -(-len(names) // SCATTERS_IN_A_ROW)
    all_axes = figure.subplots(lines, min(len(names), SCATTERS_IN_A_ROW), sharey=True,
                               squeeze=False)
    for axes, name in zip(all_axes.flat, names):
        draw_scatter(axes, name, samples, units)
    for axes in all_axes.flat[len(names):]:
        axes.set_axis_off()
    for row in all_axes:
        row[0].set_ylabel(style.with_unit("value", summary["unit"]))


def main():
    data, stem = style.arguments()
    rows, summary = read(data)
    summary["samples"] = read_samples(data)
    rows = rows[:MOST_PARAMETERS]
    style.apply()
    is_sampled = summary["method"] != "tornado"
    height = max(0.9 + 0.22 * len(rows), 2)
    scatters = min(SCATTERS, sum(row["parameter"] in summary["samples"][0] for row in rows))
    scatter_height = SCATTER_HEIGHT * -(-scatters // SCATTERS_IN_A_ROW)
    figure = style.plt.figure(layout="constrained", figsize=(
        style.TEXT_WIDTH if is_sampled else style.COLUMN_WIDTH, height + scatter_height))
    upper = figure
    if scatters:
        upper, lower = figure.subfigures(2, 1, height_ratios=(height, scatter_height))
        draw_scatters(lower, rows, summary)
    all_axes = upper.subplots(1, 2 if is_sampled else 1, squeeze=False)
    axes = all_axes[0][0]
    {"tornado": draw_tornado, "morris": draw_morris, "sobol": draw_sobol}[summary["method"]](
        axes, rows, summary)
    axes.set_yticks(range(len(rows)), [row["parameter"] for row in rows])
    axes.invert_yaxis()
    axes.grid(axis="x")
    if is_sampled:
        draw_values(all_axes[0][1], summary)
    style.save(figure, stem)


main()
