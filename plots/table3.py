"""Table III: volumes and rates of the CSD's flash, batch 64."""

import style
import tables

BATCH = "64"
# (what, column, system, claim whose value is the paper's)
ROWS = (
    ("prefill write, a layer", "quantity/prefill write, a layer", "insti_dense", "C23a"),
    ("prefill write, a layer", "quantity/prefill write, a layer", "insti_sparf", None),
    ("decode read, a layer", "quantity/decode read, a layer", "insti_dense", None),
    ("decode read, a layer", "quantity/decode read, a layer", "insti_sparf", "C23b"),
    ("decode write, a layer", "quantity/decode write, a layer", "insti_sparf", "C23c"),
    ("prefill write, rate", "quantity/prefill write", "insti_sparf", "C24a"),
    ("decode read, rate", "quantity/decode read", "insti_sparf", "C24b"),
    ("decode write, rate", "quantity/decode write", "insti_sparf", "C24c"),
)
GIGA = 1e9  # of the claims' values


def draw(rows, units, claims):
    lines = []
    for label, column, design, claim in ROWS:
        found = [row for row in rows if row["series"] == design and row["batch"] == BATCH]
        ours = style.number(found[0][column]) if found else None
        paper = claims[claim]["paper"] * GIGA if claim in claims else None
        lines.append([label, style.look_of(design)[0], tables.quantity(paper, units[column]),
                      tables.quantity(ours, units[column]), tables.difference(ours, paper)])
    return tables.draw(["batch 64", "system", "paper", "ours", "difference"], lines, {0, 1}, {5})


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data), style.read_claims(data)), stem)


main()
