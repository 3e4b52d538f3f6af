"""Figure 13: accuracy against compression, by attention method."""

import accuracy
import style


def results_of(rows, names):
    """The rows as accuracy.py reads results: those that have all of the numbers `names`."""
    return {"configurations": [
        {"method": row["method"], "ratio": float(row["ratio"]),
         **{name: style.number(row[name]) for name in names}}
        for row in rows if row[names[0]]]}


def main():
    data, stem = style.arguments()
    style.apply()
    rows, _ = style.read_table(data)
    perplexity = results_of(rows, ("increase", "increase_standard_error"))
    tensors = results_of(rows, ("error_mean",))
    style.save(accuracy.draw(perplexity, tensors), stem)


main()
