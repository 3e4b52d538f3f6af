"""How rows of a validation look in every picture of them: units, colours, marks."""

# Okabe and Ito's colours, which people with any colour vision tell apart, and grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKS = "osD^vPX*"
TOLERANCE = 0.1


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def scaled(row):
    """(reference, simulated) in s, GB, GB/s, token/s or as they are."""
    factor = {"us": 1e-6, "B": 1e-9, "B/s": 1e-9, "MB/s": 1e-3}.get(row["unit"], 1)
    return row["reference"] * factor, row["simulated"] * factor
