"""Figure 6: operators of a layer under the roofs of the GPU and of the CSD."""

import style

import matplotlib.pyplot as plt

MACHINES = {"GPU": "#555555", "CSD": "#0072B2"}
PASSES = {"prefill": ("o", "#E69F00"), "decode": ("s", "#D55E00")}
NAMED = {"attention": "attention", "output_projection": "projections, FFN"}  # one of each place
LEFT, RIGHT = 0.05, 1e5  # FLOP/B
GIGA = 1e9


def draw_roof(axes, row):
    peak, bandwidth = style.number(row["peak"]), style.number(row["bandwidth"])
    if bandwidth is None:
        axes.plot([LEFT, RIGHT], [peak / GIGA] * 2, color=MACHINES["CSD"], linewidth=0.8,
                  linestyle=":")
        axes.annotate("paper's engine at most", (RIGHT, peak / GIGA), xytext=(0, 2),
                      textcoords="offset points", ha="right", va="bottom", fontsize=6,
                      color=MACHINES["CSD"])
        return
    ridge = peak / bandwidth
    colour = MACHINES[row["machine"]]
    axes.plot([LEFT, ridge, RIGHT], [LEFT * bandwidth / GIGA, peak / GIGA, peak / GIGA],
              color=colour, linewidth=1.4)
    axes.annotate(f"{row['name'].removeprefix('NVIDIA ')}", (RIGHT, peak / GIGA), xytext=(0, 2),
                  textcoords="offset points", ha="right", va="bottom", fontsize=7, color=colour)


def draw(rows, _units):
    figure, axes = plt.subplots(figsize=(style.COLUMN_WIDTH, 2.6))
    axes.set_xscale("log")
    axes.set_yscale("log")
    for row in rows:
        if row["what"] == "roof":
            draw_roof(axes, row)
    named = set()
    for row in rows:
        if row["what"] != "operator":
            continue
        x, y = float(row["intensity"]), float(row["achieved"]) / GIGA
        if row["machine"] == "GPU":
            marker, colour = PASSES[row["pass"]]
            label = f"{row['pass']}, GPU"
            axes.annotate(NAMED.get(row["name"], ""), (x, y), xytext=(3, -4),
                          textcoords="offset points", ha="left", va="top", fontsize=6)
        else:
            label, colour, _ = style.look_of(row["name"])
            label, marker = f"decode attention, {label}", "D"
        axes.plot(x, y, marker=marker, color=colour, markersize=4, markeredgecolor="black",
                  markeredgewidth=0.4, linestyle="none", zorder=4,
                  label=label if label not in named else None)
        named.add(label)
    axes.set_xlim(LEFT, RIGHT)
    axes.grid(True)
    axes.set_xlabel("intensity (FLOP/B)")
    axes.set_ylabel("performance (GFLOP/s)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.46, 1.0), ncol=2, frameon=False,
                handlelength=1.2, handletextpad=0.4, columnspacing=0.9)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data)), stem)


main()
