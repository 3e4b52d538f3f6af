"""Table II: what the attention engine takes of a Zynq 7045, by unit and design."""

import style

import matplotlib.pyplot as plt

RESOURCES = {"lut": "LUT", "ff": "FF", "bram": "BRAM", "dsp": "DSP"}
COLOURS = {"attention kernels": "#332288", "argtopk": "#DDCC77", "flash controllers": "#44AA99",
           "NVMe controller": "#CC6677", "interconnect": "#88CCEE"}
ALL = "all"
GROUP_HEIGHT = 0.84


def draw_bar(axes, rows, y, height):
    left = 0.0
    for row in rows:
        if row["unit"] != ALL:
            share = 100 * float(row["share"])
            axes.barh(y, share, height, left=left, color=COLOURS.get(row["unit"], "#777777"),
                      edgecolor="white", linewidth=0.4)
            left += share
    gap = 5 if any(row["paper_share"] for row in rows) else 2  # behind the paper's mark
    axes.text(left + gap, y, f"{left:.0f} %", va="center", ha="left", fontsize=6, zorder=5,
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    return left


def draw(rows, _units):
    designs = list(dict.fromkeys(row["design"] for row in rows))
    figure, axes = plt.subplots(figsize=(style.COLUMN_WIDTH, 0.5 + 0.55 * len(designs) * 1.2))
    ticks, widest = [], 100.0
    height = GROUP_HEIGHT / len(RESOURCES)
    for d, design in enumerate(designs):
        for r, (resource, label) in enumerate(RESOURCES.items()):
            own = [row for row in rows if row["design"] == design and row["resource"] == resource]
            y = d + (r - (len(RESOURCES) - 1) / 2) * height
            widest = max(widest, draw_bar(axes, own, y, height * 0.9))
            ticks.append((y, label))
            for row in own:
                if row["paper_share"]:
                    axes.plot(100 * float(row["paper_share"]), y, marker="D", color="black",
                              markersize=3.2, markerfacecolor="white", markeredgewidth=0.8)
        axes.text(0, d - 0.5, design.replace("_", " "), ha="left", va="center", fontsize=7,
                  fontweight="bold")
    axes.axvline(100, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlim(0, widest * 1.15)
    axes.set_ylim(len(designs) - 0.5, -0.65)
    axes.set_yticks([y for y, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of a Zynq 7045 (%)")
    axes.grid(axis="x")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour, label=unit)
               for unit, colour in COLOURS.items()]
    handles.append(plt.Line2D([], [], marker="D", color="black", markersize=3.2,
                              markerfacecolor="white", linestyle="none", label="paper, in all"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.44, 1.0), ncol=3,
                frameon=False, handlelength=1.2, handletextpad=0.4, columnspacing=0.9)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data)), stem)


main()
