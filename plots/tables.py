"""A table as a picture: rules above and below, texts left, numbers right."""

import style

import matplotlib.pyplot as plt

LINE = 0.17  # inches
SIZE = 7
GAP = 0.14  # inches between columns
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "u"),
            (1e-9, "n"))


def quantity(value, unit, digits=3):
    """"0.32 us", "12.7 GFLOP/s"."""
    if value is None:
        return "-"
    for factor, prefix in PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:#.{digits}g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:g} {unit}"


def difference(ours, paper):
    if ours is None or paper is None:
        return ""
    percent = round(100 * (ours / paper - 1), 1)
    return f"{percent:+.1f} %" if percent else "0.0 %"


def widths_of(figure, lines, bold_rows):
    """Of the columns, in inches."""
    renderer = figure.canvas.get_renderer()
    widths = [0.0] * len(lines[0])
    for i, cells in enumerate(lines):
        for column, cell in enumerate(cells):
            text = figure.text(0, 0, cell, fontsize=SIZE,
                               fontweight="bold" if i in bold_rows else "normal")
            box = text.get_window_extent(renderer)
            widths[column] = max(widths[column], box.width / figure.dpi)
            text.remove()
    return widths


def draw(header, rows, left_columns, ruled=(), footnote=""):
    """`rows` of texts; columns in `left_columns` stand left; a rule above each row of `ruled`."""
    lines = [header, *rows]
    figure = plt.figure(figsize=(style.COLUMN_WIDTH, LINE * (len(lines) + 0.6)))
    widths = widths_of(figure, lines, {0})
    width = sum(widths) + GAP * (len(widths) - 1)
    height = LINE * len(lines)
    figure.set_size_inches(width, height + 0.1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(-0.05, height + 0.05)
    axes.text(0, -0.04, footnote, fontsize=SIZE - 1, ha="left", va="top")
    axes.axis("off")
    for i, cells in enumerate(lines):
        y = height - LINE * (i + 0.5)
        x = 0.0
        for column, cell in enumerate(cells):
            is_left = column in left_columns
            axes.text(x if is_left else x + widths[column], y, cell, fontsize=SIZE,
                      ha="left" if is_left else "right", va="center",
                      fontweight="bold" if i == 0 else "normal")
            x += widths[column] + GAP
    for row, weight in ((0, 0.9), (1, 0.6), (len(lines), 0.9), *((r + 1, 0.4) for r in ruled)):
        y = height - LINE * row
        axes.plot([0, width], [y, y], color="black", linewidth=weight, clip_on=False)
    return figure
