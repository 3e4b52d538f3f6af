#!/usr/bin/env python3
"""Prints the tables of README.md from the committed results.

    report.py [RESULTS FOLDER]
"""

import json
import sys
from fractions import Fraction
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = {"dense": "dense", "sparq": "SparQ", "sparf": "SparF", "h2o": "H2O",
         "streaming": "StreamingLLM", "window": "local window"}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def by_ratio(results, cell):
    """Markdown rows: one a method, one column a ratio from the highest down."""
    rows = results["configurations"]
    ratios = sorted({row["ratio"] for row in rows if row["method"] != "dense"}, reverse=True)
    lines = ["| method | " + " | ".join(str(Fraction(ratio)) for ratio in ratios) + " |",
             "|---" * (len(ratios) + 1) + "|"]
    for method, name in NAMES.items():
        cells = {row["ratio"]: cell(row) for row in rows if row["method"] == method}
        if cells and method != "dense":
            lines.append(f"| {name} | " + " | ".join(cells[ratio] for ratio in ratios) + " |")
    return lines


def of_perplexity(row):
    return (f"{row['perplexity']:.2f} ({100 * row['increase']:+.1f} "
            f"± {100 * row['increase_standard_error']:.1f} %)")


def of_error(row):
    return f"{row['error_mean']:.2g} / {row['error_median']:.2g}"


def of_tokens(row):
    return f"{100 * row['kept_mass']:.1f} % / {100 * row['recall']:.0f} %"


def tables(folder):
    tensors = read(folder, "tensors")
    return {"perplexity": by_ratio(read(folder, "perplexity"), of_perplexity),
            "perplexity, counted by tokens": by_ratio(read(folder, "perplexity_tokens"),
                                                      of_perplexity),
            "output error, mean / median": by_ratio(tensors, of_error),
            "kept mass / recall": by_ratio(tensors, of_tokens)}


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    for title, lines in tables(folder).items():
        print(f"{title}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
