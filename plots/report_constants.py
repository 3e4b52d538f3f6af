"""The constants behind the figures: all of them in one table, and a line at each figure."""

import hashlib
import re

from report_html import code, details, element, filter_controls, join, link, plural, table
from report_results import UNCERTAIN

MOST_SERIES = 5  # that are named for a constant
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


def in_runs(chosen, names):
    """"a, c to f": of three and more that follow each other in `names`, the first and last."""
    runs = []
    for name in chosen:
        if runs and names.index(name) == names.index(runs[-1][-1]) + 1:
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def used_in(uses, names):
    """Figures, and below them the series where not all of a figure use it."""
    figures = in_runs([figure.name for figure, _ in uses], names)
    some = list(dict.fromkeys(name for figure, series in uses for name in series
                              if name and len(series) < len(figure.series_names())))
    more = f", and {len(some) - MOST_SERIES} others" if len(some) > MOST_SERIES else ""
    return join([figures, element("br") if some else None,
                 element("span", ", ".join(some[:MOST_SERIES]) + more, class_="detail")
                 if some else None])


def uses_by_constant(figures):
    """(figure, series that use it) by constant_key()."""
    found = {}
    for figure in figures:
        for key, series in figure.constants().items():
            found.setdefault(key, []).append((figure, series))
    return {key: found[key] for key in sorted(found)}


def known_tests(citation, claims):
    """Ids of test claims that a citation names: "C16", where there are C16a to C16c, or "C16a"."""
    tests = {name for claim in claims if claim["role"] == "test"
             for name in (claim["id"], claim["id"].rstrip("abcdefghijklmnopqrstuvwxyz"))}
    return sorted(tests & set(re.findall(r"\w+", citation)))


def informed_choices(figures, claims):
    """What is assumed with test claims in view, which are then no blind predictions."""
    items = []
    for key in uses_by_constant(figures):
        path, value, source, citation, _ = key
        named = known_tests(citation, claims) if source in UNCERTAIN else []
        if named:
            items.append(element("li", link(constant_anchor(key), f"{path} = {value}"),
                                 f" ({', '.join(named)}): {citation}"))
    if not items:
        return None
    return details(f"Not all predictions are blind: {plural(len(items), 'unpublished choice')} "
                   "made with test claims in view", element("ul", *items))


def constants_section(figures):
    found = uses_by_constant(figures)
    if not found:
        return None
    by_source = {}
    for key in found:
        by_source.setdefault(key[2], []).append(key)
    names = [figure.name for figure in figures]
    rows = []
    for key in found:
        path, value, source, citation, interval = key
        rows.append(([code(path), value, interval, source, citation, used_in(found[key], names)],
                     {"id": constant_anchor(key), "data_kind": source,
                      "data_words": " ".join(figure.name for figure, _ in found[key])}))
    summary = [element("li", element("b", str(len(by_source[source]))), f" {source}: {meaning}")
               for source, meaning in SOURCES.items() if source in by_source]
    return element(
        "section",
        element("h2", "Constants"),
        element("p", "Every constant that the figures' runs took, as their records have it. One "
                     "that has different values in different systems has a row for each. "
                     "Figures are named, and systems where not all of a figure use it."),
        element("ul", *summary, class_="sources"),
        filter_controls("constants-table", [source for source in SOURCES if source in by_source]),
        table(["constant", " value", " 90 % interval", "source", "*citation", "*used in"], rows,
              caption=plural(len(found), "constant"), id="constants-table",
              class_="blocks constants"),
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
