"""Users that the drives can serve for so many years until they are worn out."""

import lines
import style

MARKERS = {"insti_dense": "s", "insti_sparf": "o"}
PAPER = {5: "C26b", 3: "C26c", 1: "C26d"}  # years: claim


def draw(rows, _units, claims):
    figure, axes = lines.new_axes()
    for design in dict.fromkeys(row["design"] for row in rows):
        own = [row for row in rows if row["design"] == design]
        label, colour, _ = style.look_of(design)
        lines.draw_line(axes, [(float(row["years"]), float(row["users"])) for row in own],
                        (f"{label}: {own[0]['counted']}", colour, MARKERS.get(design, "o")))
    paper = [(years, claims[claim]["paper"]) for years, claim in PAPER.items() if claim in claims]
    if paper:
        lines.draw_paper(axes, paper, "paper")
    axes.set_yscale("log")
    lines.mark_values(axes.xaxis, sorted({float(row["years"]) for row in rows}))
    lines.mark_values(axes.yaxis, [500, 1000, 2000, 5000])
    axes.grid(axis="y")
    axes.set_xlabel("lifetime of the drives (years)")
    axes.set_ylabel("users (128 K tokens a day)")
    axes.legend(loc="upper right", frameon=False, handlelength=1.8)
    return figure


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data), style.read_claims(data)), stem)


main()
