"""The charts of the report as Vega specifications, and what they look like.

A specification has no numbers in it: report_page.js sets its signals and its data set "points"
each time that a reader shows another metric or hides a system. Vega comes from the Debian package
libjs-vega, in parts that the page loads as CommonJS modules.
"""

import math
from pathlib import Path

import style

import matplotlib.colors

import validation_rows as rows_look

VEGA_PACKAGE = "libjs-vega"
VEGA_FOLDER = Path("/usr/share/javascript/vega")
# In the order of what needs what; the file of vega-selections is called vega-selection.
VEGA_PARTS = (
    "util", "time", "format", "loader", "canvas", "dataflow", "statistics", "scale", "scenegraph",
    "expression", "event-selector", "selections", "functions", "runtime", "parser", "view",
    "transforms", "view-transforms", "encode", "interpreter",
)

FONT = "system-ui, sans-serif"
INK = "#1b1f24"
FAILED = "#b00000"  # the mark of what ran out of memory, as in the plots
# Shapes of matplotlib's marks in plots/validation_rows.py.
SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down",
    "P": "cross", "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "*": "M0,-1L.25,-.31L.95,-.31L.38,.12L.59,.81L0,.4L-.59,.81L-.38,.12L-.95,-.31L-.25,-.31Z",
}

# What hatches of matplotlib are in a tile of 8 x 8.
HATCHES = {
    "/": "M-2,2l4,-4M0,8l8,-8M6,10l4,-4",
    "\\": "M-2,6l4,4M0,0l8,8M6,-2l4,4",
    "x": "M0,0l8,8M0,8l8,-8",
    "-": "M0,2h8M0,6h8",
    "+": "M0,4h8M4,0v8",
    "o": "M2,4a2,2 0 1,0 4,0a2,2 0 1,0 -4,0",
    ".": "M2,2h.01M6,6h.01",
}


def read_vega():
    """[(module, its text)]; None when a part is missing."""
    parts = []
    for part in VEGA_PARTS:
        path = VEGA_FOLDER / f"vega-{'selection' if part == 'selections' else part}.min.js"
        if not path.exists():
            return None
        parts.append((f"vega-{part}", path.read_text(encoding="utf-8")))
    return parts


def looks(names):
    """(label, colour, hatch) of each series: those of the plots, and for one that these draw in
    white a colour that no other has; where these run out, with a hatch."""
    found = {name: style.look_of(name) for name in names}
    taken = {matplotlib.colors.to_hex(colour).upper() for _, colour, _ in found.values()}
    free = [(colour, "") for colour in rows_look.COLOURS if colour not in taken]
    free += [(colour, "/") for colour in rows_look.COLOURS]
    for name, (label, colour, hatch) in found.items():
        colour = matplotlib.colors.to_hex(colour)
        if colour == "#ffffff" and free:
            colour, hatch = free.pop(0)
        found[name] = (label, colour, hatch)
    return found


# -- Specifications ---------------------------------------------------------------------------


def axis(scale, orient, title, **more):
    return {
        "scale": scale, "orient": orient, "title": title, "labelFont": FONT, "titleFont": FONT,
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "labelColor": INK,
        "titleColor": INK, "gridColor": "#dddddd", "domainColor": "#888888",
        "tickColor": "#888888", **more,
    }


def signals(**values):
    return [{"name": name, "value": value} for name, value in values.items()]


def base(height, description, **more):
    return {
        "$schema": "https://vega.github.io/schema/vega/v5.json",  # a name; nothing is loaded
        "description": description, "width": 600, "height": height, "padding": 4,
        "autosize": {"type": "fit", "contains": "padding"}, **more,
    }


def value_axis(name="y"):
    return {"name": name, "type": "log", "domain": {"signal": "domain"}, "range": "height",
            "zero": False}


def number_axis(scale, orient, title):
    """Labels only where they do not meet; plain numbers, large ones as "2.5G"."""
    text = ("abs(datum.value) >= 1e6 ? format(datum.value, '.3~s') "
            ": format(datum.value, '.6~g')")
    return axis(scale, orient, title, grid=True, labelOverlap="greedy",
                tickCount={"signal": "ticks ? 12 : 6"},
                values={"signal": "ticks"},
                encode={"labels": {"update": {"text": {"signal": text}}}})


def value_axis_lines():
    return number_axis("y", "left", {"signal": "y_title"})


def overflow_marks(x):
    """A cross on the axis, and above it what ran out: "OOM VRAM"."""
    here = {"x": x, "y": {"field": {"group": "height"}}}
    none = "datum.value === null"
    return [
        {"type": "symbol", "from": {"data": "points"}, "encode": {"update": {
            **here, "shape": {"value": SHAPES["X"]}, "size": {"value": 16},
            "fill": {"value": FAILED}, "opacity": {"signal": f"{none} ? 1 : 0"},
            "tooltip": {"signal": "datum"}}}},
        {"type": "text", "from": {"data": "points"}, "encode": {"update": {
            **here, "text": {"signal": f"{none} ? datum.short : ''"}, "angle": {"value": -90},
            "dx": {"value": 7}, "baseline": {"value": "middle"}, "fontSize": {"value": 10},
            "font": {"value": FONT}, "fill": {"value": FAILED}, "tooltip": {"signal": "datum"}}}},
    ]


def bars():
    """Groups of bars along an axis, a bar a series; error bars, and marks where nothing ran.

    points: series, at, fill, value or null, low, high (equal where there is no interval), short.
    """
    left = {"scale": "x", "field": "at", "offset": {"scale": "inner", "field": "series"}}
    middle = {"scale": "x", "field": "at",
              "offset": {"signal": "scale('inner', datum.series) + bandwidth('inner') / 2"}}
    bottom = {"scale": "y", "signal": "domain[0]"}
    is_wide = "datum.high > datum.low * 1.01"  # else it would only thicken the bar's edge
    line = {"stroke": {"value": INK}, "strokeWidth": {"value": 1},
            "opacity": {"signal": f"{is_wide} ? 1 : 0"}}
    ends = [{"type": "rule", "from": {"data": "points"}, "encode": {"update": {
        "x": {**middle, "offset": {"signal": middle["offset"]["signal"] + sign}},
        "x2": {**middle, "offset": {"signal": middle["offset"]["signal"] + other}},
        "y": {"scale": "y", "field": end}, **line}}}
        for end in ("low", "high") for sign, other in ((" - 2.5", " + 2.5"),)]
    return base(
        320, "bars",
        signals=signals(domain=[1, 10], ticks=None, at_values=[], shown=[], x_title="", y_title=""),
        data=[{"name": "points", "values": []}],
        scales=[
            {"name": "x", "type": "band", "domain": {"signal": "at_values"}, "range": "width",
             "paddingInner": 0.14, "paddingOuter": 0.07},
            {"name": "inner", "type": "band", "domain": {"signal": "shown"},
             "range": {"signal": "[0, bandwidth('x')]"}},
            value_axis(),
        ],
        axes=[value_axis_lines(),
              axis("x", "bottom", {"signal": "x_title"}, ticks=False, labelPadding=6)],
        marks=[
            {"type": "rect", "from": {"data": "points"}, "encode": {"update": {
                "x": left, "width": {"scale": "inner", "band": 1},
                "y": {"scale": "y", "signal": "datum.value === null ? domain[0] : datum.value"},
                "y2": bottom, "fill": {"field": "fill"}, "stroke": {"value": INK},
                "strokeWidth": {"signal": "datum.value === null ? 0 : 0.5"},
                "tooltip": {"signal": "datum"}},
                "hover": {"strokeWidth": {"value": 2}}}},
            {"type": "rule", "from": {"data": "points"}, "encode": {"update": {
                "x": middle, "y": {"scale": "y", "field": "low"},
                "y2": {"scale": "y", "field": "high"}, **line}}},
            *ends,
            *overflow_marks(middle),
        ],
    )


def stack():
    """A bar a point, made of parts, and below the bars of a series its label.

    points: at ("series|axis value"), order, fill, value or null, short; a gap in at_values has no
    "|". groups: first, last (its bars), label (lines); label_lines is how many at most.
    """
    bar = {"scale": "x", "field": "at", "band": 0.5}
    middle = ("(scale('x', datum.first) + scale('x', datum.last) + bandwidth('x')) / 2")
    return base(
        340, "stacked bars",
        signals=signals(domain=[0, 1], ticks=None, at_values=[], x_title="", y_title="",
                        label_lines=1),
        data=[{"name": "points", "values": [], "transform": [
            {"type": "stack", "groupby": ["at"], "field": "value", "sort": {"field": "order"}}]},
              {"name": "groups", "values": []}],
        scales=[
            {"name": "x", "type": "band", "domain": {"signal": "at_values"}, "range": "width",
             "paddingInner": 0.2, "paddingOuter": 0.1},
            {**value_axis(), "type": "linear"},
        ],
        axes=[value_axis_lines(),
              axis("x", "bottom", {"signal": "x_title"}, ticks=False, labelPadding=6,
                   titlePadding={"signal": "18 + 14 * label_lines"},
                   encode={"labels": {"update": {
                       "text": {"signal": "split(datum.value + '|', '|')[1]"}}}})],
        marks=[{"type": "rect", "from": {"data": "points"}, "encode": {"update": {
            "x": {"scale": "x", "field": "at"}, "width": {"scale": "x", "band": 1},
            "y": {"scale": "y", "field": "y0"}, "y2": {"scale": "y", "field": "y1"},
            "fill": {"field": "fill"}, "stroke": {"value": INK}, "strokeWidth": {"value": 0.5},
            "tooltip": {"signal": "datum"}}, "hover": {"strokeWidth": {"value": 2}}}},
               {"type": "text", "from": {"data": "groups"}, "encode": {"update": {
                   "x": {"signal": middle}, "y": {"field": {"group": "height"}, "offset": 36},
                   "text": {"field": "label"}, "align": {"value": "center"},
                   "font": {"value": FONT}, "fontSize": {"value": 12}, "lineHeight": {"value": 14},
                   "fill": {"value": INK}}}},
               *overflow_marks(bar)],
    )


def ratios():
    """Ours over the paper's, a mark a claim, with the band that its tolerance allows.

    points: id, value (the ratio), low, high (the band), fill, stroke, shape, href.
    """
    x = {"scale": "x", "field": "id"}
    return base(
        270, "ours over the paper's, claim by claim",
        signals=signals(domain=[0.1, 10], ticks=None, at_values=[], y_title=""),
        data=[{"name": "points", "values": []}],
        scales=[
            {"name": "x", "type": "band", "domain": {"signal": "at_values"}, "range": "width",
             "padding": 0.1},
            value_axis(),
        ],
        axes=[value_axis_lines(),
              axis("x", "bottom", None, ticks=False, labelAngle=-90, labelAlign="right",
                   labelBaseline="middle", labelFontSize=10)],
        marks=[
            {"type": "rect", "from": {"data": "points"}, "encode": {"update": {
                "x": x, "width": {"scale": "x", "band": 1}, "y": {"scale": "y", "field": "high"},
                "y2": {"scale": "y", "field": "low"}, "fill": {"value": "#b8bec6"},
                "fillOpacity": {"value": 0.55}, "tooltip": {"signal": "datum"}}}},
            {"type": "rule", "encode": {"update": {
                "x": {"value": 0}, "x2": {"field": {"group": "width"}},
                "y": {"scale": "y", "value": 1}, "stroke": {"value": INK},
                "strokeWidth": {"value": 1}}}},
            {"type": "rule", "from": {"data": "points"}, "encode": {"update": {
                "x": {**x, "band": 0.5}, "y": {"scale": "y", "value": 1},
                "y2": {"scale": "y", "field": "value"}, "stroke": {"field": "stroke"},
                "strokeWidth": {"value": 1}}}},
            {"type": "symbol", "from": {"data": "points"}, "encode": {"update": {
                "x": {**x, "band": 0.5}, "y": {"scale": "y", "field": "value"},
                "shape": {"field": "shape"}, "size": {"value": 70}, "fill": {"field": "fill"},
                "stroke": {"field": "stroke"}, "strokeWidth": {"value": 1.6},
                "tooltip": {"signal": "datum"}, "href": {"field": "href"},
                "cursor": {"value": "pointer"}},
                "hover": {"size": {"value": 140}}}},
        ],
    )


def scatter():
    """Simulated against reference. points: x, y, fill, stroke, shape."""
    ends = {"x": {"scale": "x", "signal": "domain[0]"}, "x2": {"scale": "x", "signal": "domain[1]"}}

    def line(factor, dash):
        return {"type": "rule", "clip": True, "encode": {"update": {
            **ends, "y": {"scale": "y", "signal": f"domain[0] * {factor}"},
            "y2": {"scale": "y", "signal": f"domain[1] * {factor}"}, "stroke": {"value": "#666666"},
            "strokeWidth": {"value": 1}, "strokeDash": {"value": dash}}}}

    tolerance = rows_look.TOLERANCE
    return base(
        520, "simulated against reference",
        signals=signals(domain=[0.1, 10], ticks=None, x_title="", y_title=""),
        data=[{"name": "points", "values": []}],
        scales=[
            {"name": "x", "type": "log", "domain": {"signal": "domain"}, "range": "width"},
            value_axis(),
        ],
        axes=[value_axis_lines(),
              number_axis("x", "bottom", {"signal": "x_title"})],
        marks=[
            line(1, []), line(1 - tolerance, [4, 4]), line(1 + tolerance, [4, 4]),
            {"type": "symbol", "from": {"data": "points"}, "encode": {"update": {
                "x": {"scale": "x", "field": "x"}, "y": {"scale": "y", "field": "y"},
                "shape": {"field": "shape"}, "size": {"value": 50}, "fill": {"field": "fill"},
                "stroke": {"field": "stroke"}, "strokeWidth": {"value": 1.2},
                "fillOpacity": {"value": 0.8}, "tooltip": {"signal": "datum"}},
                "hover": {"size": {"value": 160}}}},
        ],
    )


def specifications():
    return {"bars": bars(), "stack": stack(), "ratios": ratios(), "scatter": scatter()}


# -- Data of the charts -----------------------------------------------------------------------


def short_number(value):
    """As few digits as a chart needs; None for what no chart can draw."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def metric_columns(table, axis_name):
    """Columns with a number in some row that are no keys and no ends of intervals."""
    keys = {"series", axis_name, "status", "memory", "fidelity", "config_hash"}
    ends = ("_lowest", "_highest", "_p5", "_p95")
    return [name for name in table.names if name not in keys and not name.endswith(ends)
            and any(row[name] for row in table.rows)]


def intervals_of(table, metric):
    """(low, high, what the interval is) a row, in the table's order."""
    for ends, what in ((("p5", "p95"), "90 % of the samples of uncertain constants"),
                       (("lowest", "highest"), "error bound of sampled decode steps")):
        low, high = (f"{metric}_{end}" for end in ends)
        if low in table.names and any(row[low] for row in table.rows):
            return [(table.number(row, low), table.number(row, high)) for row in table.rows], what
    return [(None, None)] * len(table.rows), ""


def overflow_text(row):
    if row["status"] == "ok":
        return ""
    memory = row.get("memory", "")
    return f"OOM {memory.split(' ')[0]}" if memory else row["status"]


def grid_data(figure):
    """What report_page.js needs of a figure whose table is series by axis."""
    table, own_axis = figure.table, figure.axis()
    names = metric_columns(table, own_axis["name"])
    docs = figure.metric_docs()
    shown = [name for name in names if name.startswith("quantity/")]
    preferred = (shown or [figure.config.get("metric")])[0]
    metric = names.index(preferred) if preferred in names else 0
    intervals, what = intervals_of(table, figure.config.get("metric"))
    parts = [name for name in names if name.startswith("share/")]
    return {
        "kind": "stack" if parts else "bars",
        "parts": [{"metric": names.index(name), "label": label, "colour": colour}
                  for name in parts
                  for label, colour in [style.part_look(name.removeprefix("share/"))]],
        "axis": {"name": own_axis["name"], "unit": own_axis.get("unit", "1"),
                 "values": figure.axis_values()},
        "series": [{"name": name, "label": label, "colour": colour, "hatch": hatch[:1]}
                   for name, (label, colour, hatch) in looks(figure.series_names()).items()],
        "metrics": [{"name": name, "label": name.removeprefix("quantity/"),
                     "unit": table.units[name], "doc": docs.get(name, "")}
                    for name in names],
        "metric": metric,
        "bounded": figure.config.get("metric", ""),
        "interval": what,
        "points": [
            [row["series"], row[own_axis["name"]], overflow_text(row),
             [short_number(table.number(row, name)) for name in names],
             short_number(low), short_number(high)]
            for row, (low, high) in zip(table.rows, intervals)
        ],
    }


def scatter_data(suites):
    """The rows with a positive reference and a simulated number, by suite."""
    points, series = [], []
    for i, suite in enumerate(suites):
        mark = rows_look.MARKS[i % len(rows_look.MARKS)]
        series.append({"name": suite["name"], "label": suite["name"], "hatch": "",
                       "colour": rows_look.COLOURS[i % len(rows_look.COLOURS)],
                       "shape": SHAPES[mark]})
        for row in suite["rows"]:
            reference, simulated = row.get("paper"), row.get("ours")
            if rows_look.is_number(reference) and rows_look.is_number(simulated):
                x, y = rows_look.scaled({"reference": reference, "simulated": simulated,
                                         "unit": row["unit"]})
                points.append([suite["name"], row["id"], row["role"], short_number(x),
                               short_number(y), row["cells"]["reference"],
                               row["cells"]["simulated"], row["cells"]["error"]])
    return {"kind": "scatter", "series": series, "points": points}
