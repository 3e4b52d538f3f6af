"""Table I: units of the attention engine, the paper's figures and ours.

An asterisk stands where two numbers are of different things, or there is none; the CSV says why.
"""

import style
import tables


def draw(rows, _units):
    lines = []
    for row in rows:
        paper, ours = style.number(row["paper"]), style.number(row["ours"])
        lines.append([row["unit"], row["quantity"], tables.quantity(paper, row["measure"]),
                      tables.quantity(ours, row["measure"]),
                      tables.difference(ours, paper) if row["relative_difference"] else "*"])
    return tables.draw(["unit", "", "paper", "ours", "difference"], lines, {0, 1},
                       footnote="* not of the same amount, or not modelled")


def main():
    data, stem = style.arguments()
    style.apply()
    style.save(draw(*style.read_table(data)), stem)


main()
