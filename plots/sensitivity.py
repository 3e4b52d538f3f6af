"""Which parameters move a result, and what its values are: SENSITIVITY.csv and its .json."""

import csv
import json
from pathlib import Path

import style

MOST_PARAMETERS = 12


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
    axes.set_xlabel(style.with_unit(summary["value"], summary["unit"]))
    handles = [style.plt.Rectangle((0, 0), 1, 1, color=colour)
               for colour in ("#56B4E9", "#E69F00")]
    axes.legend(handles, ["at its lowest", "at its highest"], frameon=False, loc="lower right")


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
    axes.legend(frameon=False, loc="lower right")


def draw_values(axes, summary):
    axes.hist(summary["values"], bins=40, color="#999999")
    axes.axvline(summary["nominal"], color="black", linewidth=0.8, label="nominal")
    for side in ("above", "below"):
        if summary[side] is not None:
            axes.axvline(summary[side], color="#D55E00", linewidth=0.8, linestyle="--",
                         label=f"{side} {summary[side]:g}?")
    axes.set_xlabel(style.with_unit(summary["value"], summary["unit"]))
    axes.set_ylabel("samples")
    axes.legend(frameon=False)


def main():
    data, stem = style.arguments()
    rows, summary = read(data)
    rows = rows[:MOST_PARAMETERS]
    style.apply()
    is_sampled = summary["method"] != "tornado"
    height = 0.9 + 0.22 * len(rows)
    figure, all_axes = style.plt.subplots(
        1, 2 if is_sampled else 1, squeeze=False, layout="constrained",
        figsize=(style.TEXT_WIDTH if is_sampled else style.COLUMN_WIDTH, max(height, 2)))
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
