"""Figure 20 (b): throughput against the compression of SparF, by number of CSDs."""

import lines
import style

LOOKS = {"1": ("o", "1 CSD", 1.0), "2": ("s", "2 CSDs", 0.62)}


def ratio_of(series):
    """"percent_12_5" is 0.125."""
    return float(series.removeprefix("percent_").replace("_", ".")) / 100


def draw(rows, units):
    figure, axes = lines.new_axes()
    _, colour, _ = style.look_of("insti_sparf")
    for count, (marker, label, lightness) in LOOKS.items():
        own = [row for row in rows if row["CSDs"] == count and row["throughput"]]
        if own:
            lines.draw_line(axes,
                            [(ratio_of(row["series"]), float(row["throughput"])) for row in own],
                            (label, style.shade(colour, lightness), marker),
                            [style.bounds(row, "throughput") for row in own])
    axes.set_xscale("log")
    ratios = sorted({ratio_of(row["series"]) for row in rows})
    axes.set_xlim(1.15, min(ratios) / 1.15)  # more compression to the right
    lines.mark_values(axes.xaxis, ratios)
    for label, ratio in zip(axes.get_xticklabels(), ratios):
        label.set_ha("left" if ratio == min(ratios) else "right" if ratio == 0.125 else "center")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_xlabel("share of dense attention's traffic")
    axes.set_ylabel(style.with_unit("throughput", units["throughput"]))
    lines.legend(axes, 2)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data)), stem)


main()
