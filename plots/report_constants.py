"""The constants behind the figures: all of them in one table, and a line at each figure."""

import hashlib

from report_html import code, details, element, filter_controls, join, link, plural, table
from report_results import UNCERTAIN

SOURCES = {
    "datasheet": "from data sheets",
    "measured": "measured on a machine",
    "paper": "given in the paper",
    "fit": "fitted to rows of role fit",
    "assumed": "neither published nor measured",
    "override": "set along a figure's axis, or by a user",
}

def constant_anchor(key):
    """Equal for equal constants, whatever figures there are."""
    return "constant-" + hashlib.sha256("\n".join(key).encode()).hexdigest()[:10]


def used_in(uses):
    """Figures; with the series, where not all use it."""
    return join([join([link(figure.name, figure.name),
                       f" ({', '.join(series)})" if any(series) and
                       len(series) < len(figure.series_names()) else None])
                 for figure, series in uses], ", ")


def constants_section(figures):
    found = {}
    for figure in figures:
        for key, series in figure.constants().items():
            found.setdefault(key, []).append((figure, series))
    if not found:
        return None
    by_source = {}
    for key in found:
        by_source.setdefault(key[2], []).append(key)
    rows = []
    for key in sorted(found):
        path, value, source, citation, interval = key
        rows.append(([code(path), value, interval, source, citation, used_in(found[key])],
                     {"id": constant_anchor(key), "data_kind": source}))
    summary = [element("li", element("b", str(len(by_source[source]))), f" {source}: {meaning}")
               for source, meaning in SOURCES.items() if source in by_source]
    return element(
        "section",
        element("h2", "Constants"),
        element("p", "Every constant that the figures' runs took, as their records have it. One "
                     "that has different values in different systems has a row for each."),
        element("ul", *summary, class_="sources"),
        filter_controls("constants-table", [source for source in SOURCES if source in by_source]),
        table(["constant", "value", "90 % interval", "source", "citation", "used in"], rows,
              caption=plural(len(found), "constant"), id="constants-table", class_="constants"),
        id="constants")


def short_path(path):
    return path.rsplit("/", 1)[-1]


def rests_on(figure):
    """The line about what is not known for sure, and all of it on demand."""
    constants = figure.constants()
    if not constants:
        return None
    sources = {source: sorted({key for key in constants if key[2] == source})
               for source in UNCERTAIN}
    parts, lists = [], []
    for source, keys in sources.items():
        if not keys:
            continue
        paths = list(dict.fromkeys(key[0] for key in keys))
        names = list(dict.fromkeys(short_path(path) for path in paths))
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        parts.append(element("span", element("b", f"{len(paths)} {source}"), f" ({shown})"))
        lists.append(element("p", element("b", f"{source}: "), join(
            [link(constant_anchor(key), f"{key[0]} = {key[1]}", class_="constant")
             for key in keys], ", ")))
    known = sum(1 for key in constants if key[2] not in UNCERTAIN)
    if not parts:
        return element("p", f"Rests on {plural(known, 'constant')} with a published or measured "
                            "source, and on none that is assumed.", class_="rests")
    return element("div", details(
        element("span", "Rests on constants that are not published: ", join(parts, ", "),
                f"; {known} others have a published or measured source."), *lists,
        class_="brief"), class_="rests")
