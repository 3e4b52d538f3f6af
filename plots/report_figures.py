"""A section of the report for each figure: chart, picture, claims, notes and table."""

import io
import re
import struct

import report_charts as charts
from report_claims import claims_table, counts
from report_constants import rests_on
from report_html import cell_number, code, details, element, join, link, table, with_unit
from report_results import data_address

LONG = 30  # characters of a text that is a sentence
MOST_ROWS = 500  # of a table that is shown as it is

def small_picture(png):
    """The picture with as many colours as such pictures need: a fifth of the bytes."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return png
    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return min(png, stream.getvalue(), key=len)


def picture_of(figure):
    png = figure.picture()
    if png is None:
        return None
    width, height = struct.unpack(">2I", png[16:24])  # its place is kept until it is drawn
    image = element("img", src=data_address(small_picture(png)), loading="lazy", width=width,
                    height=height,
                    alt=f"{figure.name}: {figure.title}. The numbers are in the table below.")
    # A chart shows one quantity at a time, the picture all of them.
    kept = "picture kept" if len(quantities_of(figure)) > 1 else "picture"
    return details(f"Picture (as vectors: {figure.folder.name}/{figure.stem}.pdf)", image,
                   class_=kept, open=True)


def quantities_of(figure):
    return [name for name in figure.table.names if name.startswith("quantity/")]


def grid_table(figure):
    """The figure's metric, series by axis value."""
    axis, metric = figure.axis(), figure.config.get("metric", "")
    cells = {(row["series"], row[axis["name"]]): row for row in figure.table.rows}
    looks = charts.looks(figure.series_names())

    def cell(series, at):
        row = cells.get((series, at))
        if row is None:
            return ""
        return charts.overflow_text(row) or cell_number(figure.table.number(row, metric), unit)

    unit = figure.table.units.get(metric, "1")
    return table(
        [with_unit(axis["name"], f"[{axis['unit']}]"), *(f" {at}" for at in figure.axis_values())],
        [[looks[series][0], *(cell(series, at) for at in figure.axis_values())]
         for series in figure.series_names()],
        caption=with_unit(metric, "" if unit == "1" else f"[{unit}]"))


def derived_table(figure, names):
    """What a figure derives from each point: its quantities, or the shares of its time."""
    own, axis = figure.table, figure.axis()
    looks = charts.looks(figure.series_names())
    titles = [with_unit(name.split("/", 1)[1], "" if own.units[name] == "1" else
                        f"[{own.units[name]}]") for name in names]
    rows = [[looks[row["series"]][0], row[axis["name"]],
             *(charts.overflow_text(row) or cell_number(own.number(row, name), own.units[name])
               for name in names)]
            for row in own.rows]
    return table(["series", f" {axis['name']}", *(f" {title}" for title in titles)], rows,
                 caption="What the figure shows")


def data_table(figure):
    if not figure.is_grid():
        return plain_table(figure)
    derived = [name for name in figure.table.names if name.startswith(("quantity/", "share/"))]
    return derived_table(figure, derived) if derived else grid_table(figure)


def plain_table(figure):
    """Any table, as it is."""
    own = figure.table
    numbers = [all(re.fullmatch(r"[-+.\deE]*", row[i]) for row in own.cells)
               for i in range(len(own.names))]
    rows = [[cell_number(float(cell), own.units[name], 4) if is_number and cell else cell
             for name, cell, is_number in zip(own.names, row, numbers)]
            for row in own.cells[:MOST_ROWS]]
    note = (f"; the first {MOST_ROWS} of {len(own.cells)} rows" if len(own.cells) > MOST_ROWS
            else "")
    longest = [max((len(row[i]) for row in own.cells), default=0) for i in range(len(own.names))]
    kinds = [" " if is_number else "*" if length > LONG else ""
             for is_number, length in zip(numbers, longest)]
    return table([kind + title for kind, title in zip(kinds, own.titles)], rows,
                 caption=f"{figure.stem}.csv{note}")


def notes_of(figure):
    notes = figure.notes()
    if not notes:
        return None
    items = [element("li", element("b", "; ".join(charts.looks(series)[name][0] for name in series)
                                   + ": ") if series else None, note) for series, note in notes]
    return element("div", element("h3", "Notes"), element("ul", *items), class_="notes")


def verdict_line(claims):
    if not claims:
        return element("p", "No claim of the paper's text is about this one.", class_="summary")
    parts = []
    for role in ("test", "fit"):
        passing, judged = counts(claims, role)
        if judged:
            missed = judged - passing
            parts.append(join([f"{role}: ", element("span", f"{passing} pass", class_="pass"), ", ",
                               element("span", f"{missed} miss",
                                       class_="miss" if missed else "none")]))
    unanswered = sum(claim["is_open"] for claim in claims)
    if unanswered:
        parts.append(f"{unanswered} open, as the axis is not whole")
    return element("p", "Claims of the paper: ", join(parts, "; "), ".", class_="summary")


def whole_names(title):
    """A title in which "OPT-13B" and "2 TiB" are not broken."""
    return join([element("span", part, class_="whole") if i % 2 else part for i, part in
                 enumerate(re.split(r"(\S+-\d\S*|\d+ [KMGT]i?B)", title))])


def figure_section(figure, command):
    is_grid = figure.is_grid()
    chart = element("div", class_="chart", data_chart=figure.name,
                    aria_label=f"Chart of {figure.name}: {figure.title}") if is_grid else None
    files = f"{figure.folder.name}/{figure.stem}.csv has all columns"
    return element(
        "section",
        element("h2", link(figure.name, figure.name, class_="anchor"), " ",
                whole_names(figure.title)),
        element("p", figure.source, class_="source"),
        verdict_line(figure.claims),
        element("figure", chart, picture_of(figure)) if chart or figure.picture() else None,
        claims_table(figure.claims, f"Claims about {figure.name}", anchors=True)
        if figure.claims else None,
        rests_on(figure),
        notes_of(figure),
        details("Data", data_table(figure),
                element("p", f"{files}. Make it again: ", code(command)), open=not is_grid),
        id=figure.name, class_="figure")
