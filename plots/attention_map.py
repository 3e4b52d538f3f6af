"""Which system wins at each context length and batch: a sweep as configs/sweeps/attention_map.json.

A cell has the colour of the best system, and the factor by which in-storage attention is better
than the best of continuous batching and tiered offloading: above 1 it wins. A cell allows so many
sequences at once and no more, so a system that does better with fewer of them, or does not fit,
works with fewer at a time. Empty cells: nothing runs.
"""

import sys

import style

try:
    import nearkv
    import pandas
except ModuleNotFoundError as missing:
    print(f"{missing.name} is missing; install the Debian package python3-{missing.name}",
          file=sys.stderr)
    sys.exit(style.EXIT_PACKAGE_MISSING)

from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

IN_STORAGE = ("insti_dense", "insti_sparf")
MODELS = {"llama_3_1_8b": "Llama-3.1-8B", "qwen2_5_14b_1m": "Qwen2.5-14B-1M"}
PANELS = (("throughput", "throughput", 1), ("cost_per_million_tokens", "cost of a token", -1))
BRIGHT = 0.55  # a colour above takes black text
RED_GREEN_BLUE = (0.299, 0.587, 0.114)  # their weights in brightness, ITU-R BT.601


def goodness(frame, metric, sign):
    """A column a system: the metric, turned so that more is better, with the best number of
    sequences up to the batch; 0 where none runs."""
    table = frame.assign(context=frame["prompt_tokens"] + frame["output_tokens"],
                         good=frame[metric] if sign > 0 else 1 / frame[metric])
    table = table.set_index(["model", "context", "batch", "system"])["good"].unstack("system")
    return table.fillna(0).groupby(["model", "context"]).cummax()


def compared(good):
    """The best system of each cell, and in-storage attention's factor over the others; 0 and
    infinity where only one side runs."""
    inside = [system for system in good.columns if system in IN_STORAGE]
    factor = good[inside].max(axis=1) / good.drop(columns=inside).max(axis=1)
    winner = good.idxmax(axis=1).where(good.max(axis=1) > 0)
    return pandas.DataFrame({"winner": winner, "factor": factor})


def written(factor):
    if factor == 0:
        return "none"
    if factor == float("inf"):
        return "only"
    return f"{factor:.0f}" if factor >= 10 else f"{factor:.2f}"


def ink(colour):
    brightness = sum(part * weight for part, weight in zip(to_rgb(colour), RED_GREEN_BLUE))
    return "black" if brightness > BRIGHT else "white"


def draw_cells(axes, cells, contexts):
    batches = sorted(cells.index.unique("batch"))
    for (context, batch), cell in cells.iterrows():
        if not isinstance(cell["winner"], str):
            continue
        place = contexts.index(context), batches.index(batch)
        _, colour, _ = style.look_of(cell["winner"])
        axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, edgecolor="white"))
        axes.text(place[0] + 0.5, place[1] + 0.48, written(cell["factor"]), ha="center",
                  va="center", color=ink(colour),
                  weight="bold" if cell["winner"] in IN_STORAGE else "normal")
    known = set(cells.index.unique("context"))
    if len(known) < len(contexts):
        axes.text((len(known) + len(contexts)) / 2, len(batches) / 2,
                  "longer than\nthe model's\ncontext", ha="center", va="center", color="#777777")
    axes.set_xlim(0, len(contexts))
    axes.set_ylim(0, len(batches))
    axes.set_xticks([place + 0.5 for place in range(len(contexts))],
                    [f"{context // 1024}K" for context in contexts])
    axes.set_yticks([place + 0.5 for place in range(len(batches))], batches)
    axes.tick_params(length=0)


def main():
    folder, stem = style.arguments("SWEEP_FOLDER")
    results = nearkv.read(folder)
    style.apply()
    models = list(dict.fromkeys(results.frame["model"]))
    figure, all_axes = style.plt.subplots(
        len(models), len(PANELS), figsize=(style.TEXT_WIDTH, 0.75 + 1.3 * len(models)),
        squeeze=False, layout="constrained")
    winners = set()
    for column, (metric, title, sign) in enumerate(PANELS):
        cells = compared(goodness(results.frame, metric, sign))
        winners |= set(cells["winner"].dropna())
        for row, model in enumerate(models):
            axes = all_axes[row][column]
            draw_cells(axes, cells.loc[model], sorted(cells.index.unique("context")))
            axes.set_title(f"{MODELS.get(model, model)}: {title}")
            if column == 0:
                axes.set_ylabel("most sequences at once")
            if row == len(models) - 1:
                axes.set_xlabel("context (tokens)")
    looks = [style.look_of(system) for system in style.SYSTEMS if system in winners]
    figure.legend(handles=[Patch(facecolor=colour, label=label) for label, colour, _ in looks],
                  loc="lower center", bbox_to_anchor=(0.5, 1), ncol=len(looks), frameon=False,
                  title="the best system, and by what factor in-storage attention is "
                        "better than the best of the others")
    style.save(figure, stem)


if __name__ == "__main__":
    main()
