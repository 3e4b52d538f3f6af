"""HTML in which nothing is taken for markup but what was made here."""

import html
import json
import re

VOID = {"br", "img", "input", "meta", "wbr"}


class Html(str):
    """Markup; every other text is escaped on its way into it."""


def escaped(content):
    return content if isinstance(content, Html) else Html(html.escape(str(content), quote=True))


def join(parts, separator=""):
    return Html(escaped(separator).join(escaped(part) for part in parts if part is not None))


def element(name, /, *content, **attributes):
    """<name attribute="...">content</name>; None is left out, "class_" is "class", "_" is "-"."""
    tag = name
    for key, value in attributes.items():
        if value is True:
            tag += f" {key.replace('_', '-')}"
        elif value is not None and value is not False:
            tag += f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
    if name in VOID:
        return Html(f"<{tag}>")
    return Html(f"<{tag}>{join(content)}</{name}>")


COLUMN_KINDS = {" ": "number", "*": "words"}


def table(columns, rows, caption=None, **attributes):
    """`columns` are texts: " name" has numbers, which stand right, "*name" sentences, which take
    room. `rows` are lists of cells or (cells, attributes of the row). Wide tables scroll in a box
    of their own; on narrow screens the rows of one with the class "blocks" become blocks, in which
    each cell says what it is."""
    kinds = [COLUMN_KINDS.get(column[:1]) for column in columns]
    names = [column[1:] if kind else column for column, kind in zip(columns, kinds)]
    is_blocks = "blocks" in attributes.get("class_", "")
    head = element("tr", *(element("th", name, scope="col", class_=kind)
                           for name, kind in zip(names, kinds)))
    body = []
    for row in rows:
        cells, more = row if isinstance(row, tuple) else (row, {})
        body.append(element("tr", *(element("td", cell, class_=kind,
                                            data_column=name if is_blocks else None)
                                    for cell, name, kind in zip(cells, names, kinds)), **more))
    content = [element("thead", head), element("tbody", *body)]
    if caption:
        content.insert(0, element("caption", caption))
    return element("div", element("table", *content, **attributes), class_="scroll", tabindex="0",
                   role="region", aria_label=caption or "table")


def details(summary, *content, **attributes):
    return element("details", element("summary", summary), *content, **attributes)


def filter_controls(target, kinds):
    buttons = [element("button", kind, type="button", data_kind=kind, aria_pressed="true")
               for kind in kinds]
    return element("div", element("label", "Search ", element(
        "input", type="search", placeholder="part of any cell")), *buttons,
        element("output", ""), class_="filter controls", data_table=target)


def as_script_data(name, value):
    """JSON that a script finds by its id. No text in it can end the element or begin markup."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True,
                      allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escaped(name)}">{text}</script>')


def code(text):
    """Code that may be broken behind a slash or an underscore."""
    return element("code", *(join([part, element("wbr")]) if part[-1:] in "/_" else part
                             for part in re.findall(r"[^/_]*[/_]|[^/_]+", text)))


def link(target, text, **attributes):
    return element("a", text, href=f"#{target}", **attributes)


# -- Numbers ----------------------------------------------------------------------------------


def significant(value, digits=3):
    """A number for people: "1086", "11.5", "0.000321", "3.2e-07"."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    exponent = int(f"{abs(value):.{digits - 1}e}".split("e")[1])
    if not -5 < exponent < 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


# From a million on, and below a thousandth of what has a time's or an energy's unit.
LARGE = ((1e15, "P", None), (1e12, "T", "trillion"), (1e9, "G", "billion"), (1e6, "M", "million"))
SMALL = ((1e-3, "m"), (1e-6, "u"), (1e-9, "n"))
DIVIDED = ("s", "J")


def scaled(value, unit, digits=3):
    """"5.42 GB/s", "320 ns" or "32.3 million"; None where the number is best as it is."""
    size = abs(value)
    if unit in DIVIDED and 0 < size < 1e-3:
        factor, prefix = next((one for one in SMALL if size >= one[0]), SMALL[-1])
        return f"{significant(value / factor, digits)} {prefix}{unit}"
    for factor, prefix, word in LARGE:
        if size >= factor and (word or unit != "1"):
            return f"{significant(value / factor, digits)} {word if unit == '1' else prefix + unit}"
    return None


def quantity(value, unit, digits=3):
    """A number with its unit: "11.5 token/s", "5.42 GB/s", "32.3 million"."""
    return scaled(value, unit, digits) or with_unit(significant(value, digits), unit)


def cell_number(value, unit, digits=3):
    """A number below a title that says the unit; with its own unit where that has a prefix."""
    if value is None:
        return "-"
    plain = f"{value:.{digits}g}"
    if "e" not in plain and float(plain) == value:
        return plain  # "3", not "3.000"
    return scaled(value, unit, digits) or significant(value, digits)


def percent(value, sign=False):
    """A share in percent, with a sign where it is a difference."""
    if abs(value) < 5e-6:
        return "0 %"
    digits = 1 if abs(value) >= 0.001 else 3
    return f"{value * 100:{'+' if sign else ''}.{digits}f} %"


def with_unit(text, unit):
    return text if unit in ("", "1", None) else f"{text} {unit}"


def plural(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"
