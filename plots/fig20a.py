"""Figure 20 (a): throughput against the number of CSDs."""

import lines
import style

LOOKS = {"insti_dense": "s", "insti_sparf": "o"}
PAPER = {"insti_dense": "C18a", "insti_sparf": "C18b"}  # 20 CSDs over one


def draw(rows, units, claims):
    figure, axes = lines.new_axes()
    expected = []
    for series, marker in LOOKS.items():
        own = [row for row in rows if row["series"] == series and row["throughput"]]
        points = [(int(row["CSDs"]), float(row["throughput"])) for row in own]
        label, colour, _ = style.look_of(series)
        lines.draw_line(axes, points, (label, colour, marker),
                        [style.bounds(row, "throughput") for row in own])
        if PAPER[series] in claims and points[0][0] == 1:
            expected.append((20, points[0][1] * claims[PAPER[series]]["paper"]))
    if expected:
        lines.draw_paper(axes, expected, "paper's scaling from 1 to 20")
    axes.set_xscale("log")
    axes.set_yscale("log")
    lines.mark_values(axes.xaxis, sorted({int(row["CSDs"]) for row in rows}))
    lines.mark_values(axes.yaxis, [2, 5, 10, 20, 50, 100, 200])
    axes.grid(axis="y")
    axes.set_xlabel("CSDs")
    axes.set_ylabel(style.with_unit("throughput", units["throughput"]))
    lines.legend(axes, 3)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data), style.read_claims(data)), stem)


main()
