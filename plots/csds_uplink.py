"""What the uplink of the CSDs' switch is worth: a sweep as configs/sweeps/csds_uplink.json."""

import sys

import style

try:
    import nearkv
except ModuleNotFoundError as missing:
    print(f"{missing.name} is missing; install the Debian package python3-{missing.name}",
          file=sys.stderr)
    sys.exit(style.EXIT_PACKAGE_MISSING)

import lines

LANE_RATES = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.375}  # GB/s by generation
MARKS = "osD^vPX*"


def along_rates(axes, rates):
    axes.set_xscale("log", base=2)
    lines.mark_values(axes.xaxis, sorted(rates), [f"{rate:.0f}" for rate in sorted(rates)])
    axes.set_xlabel("uplink, each way (GB/s)")
    axes.grid(axis="y")


def draw_loss(axes, frame, unit):
    """Throughput as a share of that with the fastest uplink: a line for each number of CSDs."""
    counts = sorted(set(frame["csds"]))
    label, colour, _ = style.look_of(frame["system"].iloc[0])
    for place, count in enumerate(counts):
        # Lanes and generations that give the same rate give the same result.
        speed = frame[frame["csds"] == count].groupby("rate")["throughput"].mean()
        shade = style.shade(colour, 1.55 - 1.2 * place / max(1, len(counts) - 1))
        lines.draw_line(axes, list((100 * speed / speed.iloc[-1]).items()),
                        (f"{count}: {speed.iloc[-1]:.3g} {unit}", shade,
                         MARKS[place % len(MARKS)]))
    along_rates(axes, set(frame["rate"]))
    axes.set_title(label)
    axes.set_ylabel("share of the best throughput (%)")
    axes.legend(title="CSDs, at best", loc="lower right", frameon=False, borderaxespad=0.2)


def draw_first_token(axes, frame, systems):
    for system, mark in zip(systems, MARKS):
        label, colour, _ = style.look_of(system)
        first = frame[frame["system"] == system].groupby("rate")["ttft"].mean()
        lines.draw_line(axes, list(first.items()), (label, colour, mark))
    # They mostly lie on one another.
    axes.containers[-1].lines[0].set(linestyle="--", markerfacecolor="none", markersize=6)
    along_rates(axes, set(frame["rate"]))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("time to first token (s)")
    axes.set_title(f"{frame['csds'].max()} CSDs")
    axes.legend(frameon=False)


def main():
    folder, stem = style.arguments("SWEEP_FOLDER")
    results = nearkv.read(folder)
    frame = results.ran()
    rate = frame["uplink_lanes"] * frame["uplink_generation"].map(LANE_RATES)
    frame = frame.assign(rate=rate.round(1))
    style.apply()
    systems = list(dict.fromkeys(frame["system"]))
    figure, all_axes = style.plt.subplots(1, len(systems) + 1, figsize=(style.TEXT_WIDTH, 2.5),
                                          layout="constrained")
    lowest = 100
    for axes, system in zip(all_axes, systems):
        draw_loss(axes, frame[frame["system"] == system], results.units["throughput"])
        lowest = min(lowest, axes.get_ylim()[0])
    for axes in all_axes[:len(systems)]:
        axes.set_ylim(lowest, 101)
    draw_first_token(all_axes[-1], frame[frame["csds"] == frame["csds"].max()], systems)
    style.save(figure, stem)


if __name__ == "__main__":
    main()
