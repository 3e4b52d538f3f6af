"""Figure 22: how much read retry slows decoding down."""

import style

import matplotlib.pyplot as plt

SYSTEMS = ("insti_dense", "insti_sparf")
RETRY = "_retry"
PER_MILLE = 1000
PAPER_MOST = 4.7  # per mille: InstInfer (arXiv 2409.04992), the text about Figure 22


def throughputs(rows, series):
    return {row["batch"]: style.number(row["decode_throughput"]) for row in rows
            if row["series"] == series}


def draw(rows, units):
    figure, axes = plt.subplots(figsize=(style.COLUMN_WIDTH, 2.0))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    width = 0.38
    for i, system in enumerate(SYSTEMS):
        label, colour, hatch = style.look_of(system)
        plain, retried = throughputs(rows, system), throughputs(rows, system + RETRY)
        slowdowns = [PER_MILLE * (plain[batch] / retried[batch] - 1) for batch in batches]
        places = [place + (i - 0.5) * width for place in range(len(batches))]
        axes.bar(places, slowdowns, width, color=colour, hatch=hatch, edgecolor="black",
                 linewidth=0.4, label=label)
        for place, slowdown in zip(places, slowdowns):
            axes.text(place, slowdown + 0.08, f"{slowdown:.2f}", ha="center", va="bottom",
                      fontsize=6)
    axes.axhline(PAPER_MOST, color="black", linewidth=0.8, linestyle="--",
                 label="most in the paper")
    axes.set_xticks(range(len(batches)), batches)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, PAPER_MOST * 1.15)
    axes.set_xlabel(style.with_unit("batch size", units["batch"]))
    axes.set_ylabel("slowdown (per mille)")
    axes.grid(axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=3, frameon=False,
                handlelength=1.6, handletextpad=0.4, columnspacing=0.9)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data)), stem)


main()
