"""Gantt chart of one decode layer: what each part does when, a panel a system.

Reads timelines (`nearkv run --timeline`). A row is a part of the machine; how much of the row is
filled says how much of the part is busy: of its servers, or of a link's rate. Panels have time
scales of their own, marked as such; in the longer ones a bar shows how long the first panel's layer
is.

Called as gantt.py LIST.csv STEM; the list has a row a panel: system, layer, and the timeline file,
relative to the list.
"""

import json
from pathlib import Path

import style

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

BINS = 600  # of a panel's width
LEAST_SHOWN = 2e-4  # of the layer's time; a row with less would look empty

# Rows from top to bottom: label, colour, and which tracks (prefixes of resource names) they show.
# "any": busy whenever something is under way, as what is in a drive's queue is no server.
COMPUTE, LINK, HOST, FLASH, ENGINE = "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
ROWS = [
    ("GPU", COMPUTE, ["gpu/0/compute"], "servers"),
    ("host thread: commands", HOST, ["host/submitter"], "servers"),
    ("host threads: files", HOST, ["host/interpreter"], "servers"),
    ("host cores", HOST, ["host/cores"], "servers"),
    ("PCIe to GPU", LINK, ["pcie/gpu/0/down"], "rate"),
    ("PCIe from GPU", LINK, ["pcie/gpu/0/up"], "rate"),
    ("SSD commands", FLASH, ["ssd"], "any"),
    ("PCIe to CSD", LINK, ["pcie/csd/0/down"], "rate"),
    ("CSD controller", ENGINE, ["csd/0/controller_cores"], "servers"),
    ("CSD flash channels", FLASH, ["csd/0/flash/channel/"], "channels"),
    ("CSD attention", ENGINE, ["csd/0/gemv_units"], "servers"),
]


def read_timeline(path):
    """Slices by track name: (name, begin, end, busy) in seconds."""
    with open(path, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    names, open_slices, tracks = {}, {}, {}
    for event in events:
        track = (event["pid"], event.get("tid"))
        if event["ph"] == "M" and event["name"] == "thread_name":
            names[track] = event["args"]["name"]
        elif event["ph"] == "B":
            open_slices.setdefault(track, []).append(event)
        elif event["ph"] == "E":
            begin = open_slices[track].pop()
            start, end = begin["ts"] * 1e-6, event["ts"] * 1e-6
            busy = begin.get("args", {}).get("busy_us")
            tracks.setdefault(names[track], []).append(
                (begin["name"], start, end, end - start if busy is None else busy * 1e-6)
            )
    return tracks


def lanes_of(tracks, prefix):
    """Slices of each lane of a resource, or of all resources below a prefix that ends in "/"."""
    if prefix.endswith("/"):
        return [slices for name, slices in tracks.items()
                if name.startswith(prefix) and name[len(prefix):].isdigit()]
    return [slices for name, slices in tracks.items()
            if name == prefix or name.startswith(prefix + " #")]


def busy_share(lanes, kind, begin, end):
    """By bin of time: the share of a row that is busy, 0 to 1."""
    edges = np.linspace(begin, end, BINS + 1)
    width = edges[1] - edges[0]
    sums = np.zeros(BINS)
    for lane in lanes:
        for _, start, stop, busy in lane:
            if stop <= begin or start >= end or stop <= start:
                continue
            covered = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)
            sums += covered * (busy / (stop - start) if kind != "any" else 1)
    servers = max(1, len(lanes)) if kind in ("servers", "channels") else 1
    return np.clip(sums / (width * servers), 0, 1), edges


def layer_of(tracks, layer):
    """Begin and end of the layer on the driver's track."""
    wanted = f"layer {layer}"
    found = [slice_ for slice_ in tracks["driver"] if slice_[0] == wanted]
    if not found:
        raise SystemExit(f"the timeline has no {wanted}")
    return found[0][1], found[0][2]


def rows_of(tracks, begin, end):
    """The rows in which something happens; of equal servers those count that worked at all."""
    rows = []
    for label, colour, prefixes, kind in ROWS:
        lanes = [lane for prefix in prefixes for lane in lanes_of(tracks, prefix)]
        share, edges = busy_share(lanes, kind, begin, end)
        if share.mean() >= LEAST_SHOWN:
            counted = {"servers": f" ({len(lanes)} used)", "channels": f" ({len(lanes)})"}
            rows.append((label + counted.get(kind, "") if len(lanes) > 1 else label, colour, share,
                         edges))
    return rows


def with_unit(seconds):
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def draw_panel(axes, system, rows, length, first_length):
    label, _, _ = style.look_of(system)
    for place, (_, colour, share, edges) in enumerate(rows):
        bottom = len(rows) - 1 - place
        times = (edges - edges[0]) * 1e3
        axes.fill_between(times[:-1], bottom, bottom + 0.86 * share, step="post", color=colour,
                          linewidth=0)
        axes.axhline(bottom, color="#bbbbbb", linewidth=0.4)
    axes.set_yticks([len(rows) - 1 - i + 0.43 for i in range(len(rows))], [row[0] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0, len(rows) + 0.1)
    axes.set_xlim(0, length * 1e3)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_title(f"{label}: one decode layer takes {with_unit(length)}", loc="left")
    if length > 1.2 * first_length:
        top = len(rows) + 0.25
        axes.plot([0, first_length * 1e3], [top, top], color="black", linewidth=2,
                  solid_capstyle="butt", clip_on=False)
        axes.text(first_length * 1e3, top, "  the layer above, on this scale", va="center",
                  fontsize=6)
        axes.set_ylim(0, len(rows) + 0.5)


def main():
    data, stem = style.arguments()
    style.apply()
    panels, _ = style.read_table(data)
    drawn = []
    for panel in panels:
        tracks = read_timeline(Path(data).parent / panel["timeline"])
        begin, end = layer_of(tracks, panel["layer"])
        drawn.append((panel["system"], rows_of(tracks, begin, end), end - begin))
    heights = [len(rows) for _, rows, _ in drawn]
    figure, all_axes = plt.subplots(
        len(drawn), 1, figsize=(style.TEXT_WIDTH, 0.19 * sum(heights) + 0.75 * len(drawn)),
        gridspec_kw={"height_ratios": heights, "hspace": 0.5}, squeeze=False
    )
    for axes, (system, rows, length) in zip(all_axes[:, 0], drawn):
        draw_panel(axes, system, rows, length, drawn[0][2])
    scales = " (each panel has its own scale)" if len(drawn) > 1 else ""
    all_axes[-1, 0].set_xlabel(f"time in the layer [ms]{scales}; "
                               "height of a row: share of the part that is busy")
    style.save(figure, stem)


if __name__ == "__main__":
    main()
