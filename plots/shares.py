"""Where the decode time went: a stacked bar of shares for each series and axis value.

A mark and its number beside a bar are the paper's share of KV access, where its text gives it.
"""

import style

import matplotlib.pyplot as plt
from matplotlib.patches import Patch

PREFIX = "share/"
BAR_WIDTH = 0.8
GROUP_GAP = 0.7  # between two series
TEXT_SHARE = 0.09  # shares above it have room for their number
DARK = 0.5  # luminance; texts on darker colours are white
LEGEND_COLUMNS = 3
LEAST_SHARE = 0.005
REST = "rest"


def share_of(row, part):
    return style.number(row[PREFIX + part]) or 0.0


def visible_parts(rows):
    """Names of the parts in the order of the table, and of those that are too small to be seen in
    every row."""
    names = [name.removeprefix(PREFIX) for name in rows[0] if name.startswith(PREFIX)]
    small = [name for name in names if all(share_of(row, name) < LEAST_SHARE for row in rows)]
    return [name for name in names if name not in small], small


def join_small(rows):
    """Puts the small parts together, as "rest", and returns the names of all parts to draw."""
    parts, small = visible_parts(rows)
    for row in rows:
        row[PREFIX + REST] = str(sum(share_of(row, name) for name in small))
    return [*parts, REST] if small else parts


def is_dark(colour):
    red, green, blue = style.matplotlib.colors.to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < DARK


def draw_bar(axes, row, parts, x):
    bottom = 0.0
    for part in parts:
        share = 100 * share_of(row, part)
        _, colour = style.part_look(part)
        axes.bar(x, share, BAR_WIDTH, bottom=bottom, color=colour, edgecolor="white",
                 linewidth=0.4)
        if share > 100 * TEXT_SHARE:
            axes.text(x, bottom + share / 2, f"{share:.0f}", ha="center", va="center", fontsize=6,
                      color="white" if is_dark(colour) else "black")
        bottom += share
    draw_interval(axes, row, x)
    if bottom == 0.0:
        axes.text(x, 2, f"OOM {row['memory'].split(' ')[0]}", rotation=90, ha="center",
                  va="bottom", fontsize=6, color="#b00000")


def draw_interval(axes, row, x):
    """90 % of the samples of the uncertain constants, where the figure was made with --samples."""
    ends = style.bounds(row, "kv_access_share")
    share = style.number(row.get("kv_access_share", ""))
    if ends and share is not None:
        low, high = min(ends[0], share), max(ends[1], share)
        axes.errorbar(x, 100 * share, [[100 * (share - low)], [100 * (high - share)]], fmt="none",
                      ecolor="black", elinewidth=0.7, capsize=1.8, capthick=0.7)


def draw_paper(axes, x, share):
    axes.plot(x, 100 * share, marker="D", color="black", markersize=3.2, markerfacecolor="white",
              markeredgewidth=0.8, zorder=5)


def draw(rows, units, axis, paper):
    """`paper` has shares by (series, axis value)."""
    parts = join_small(rows)
    names = list(dict.fromkeys(row["series"] for row in rows))
    wide = len(rows) > 9
    figure, axes = plt.subplots(figsize=(style.TEXT_WIDTH if wide else style.COLUMN_WIDTH, 2.3))
    x, ticks, centres = 0.0, [], []
    for name in names:
        first = x
        for row in (row for row in rows if row["series"] == name):
            draw_bar(axes, row, parts, x)
            if (name, row[axis]) in paper:
                draw_paper(axes, x, paper[name, row[axis]])
            ticks.append((x, row[axis]))
            x += 1
        centres.append(((first + x - 1) / 2, style.look_of(name)[0]))
        x += GROUP_GAP
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.tick_params(axis="x", length=0)
    for place, label in centres:
        axes.annotate(label.replace(", ", ",\n"), (place, 0), xycoords=("data", "axes fraction"),
                      xytext=(0, -14), textcoords="offset points", ha="center", va="top",
                      fontsize=7)
    lines = max(label.count(", ") for _, label in centres) + 1
    axes.set_xlabel(style.with_unit("batch size", units[axis]), labelpad=2 + 9 * lines)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share of the decode time (%)")
    axes.grid(axis="y")
    handles = [Patch(color=style.part_look(part)[1], label=style.part_look(part)[0])
               for part in parts]
    if paper:
        handles.append(plt.Line2D([], [], marker="D", color="black", markersize=3.2,
                                  markerfacecolor="white", linestyle="none",
                                  label="KV access, paper"))
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.45, 1.0),
                ncol=len(handles) if wide else LEGEND_COLUMNS, frameon=False, handlelength=1.2,
                handletextpad=0.4, columnspacing=0.9)
    return figure


def main(paper_claims=None):
    """`paper_claims` names the claims whose value is a share, by (series, axis value)."""
    data, stem = style.arguments()
    style.apply()
    rows, units = style.read_table(data)
    claims = style.read_claims(data)
    paper = {place: claims[name]["paper"] for place, name in (paper_claims or {}).items()
             if name in claims}
    style.save(draw(rows, units, "batch", paper), stem)
