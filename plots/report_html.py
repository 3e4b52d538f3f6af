"""HTML in which nothing is taken for markup but what was made here."""

import html
import json

VOID = {"br", "img", "input", "meta"}


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


def table(columns, rows, caption=None, **attributes):
    """`columns` are texts, those that begin with a space stand right; `rows` are lists of cells or
    (cells, attributes of the row). Wide tables scroll in a box of their own. A cell knows its
    column, for narrow screens where rows of claims become blocks."""
    right = [column.startswith(" ") for column in columns]
    is_of_claims = attributes.get("class_") == "claims"
    head = element("tr", *(element("th", column.strip(), scope="col",
                                   class_="number" if is_right else None)
                           for column, is_right in zip(columns, right)))
    body = []
    for row in rows:
        cells, more = row if isinstance(row, tuple) else (row, {})
        body.append(element("tr", *(element("td", cell, class_="number" if is_right else None,
                                            data_column=column.strip() if is_of_claims else None)
                                    for cell, column, is_right in zip(cells, columns, right)),
                            **more))
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
    return element("code", text)


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


def percent(value, sign=False):
    """A share in percent, with a sign where it is a difference."""
    digits = 1 if abs(value) >= 0.001 else 3
    return f"{value * 100:{'+' if sign else ''}.{digits}f} %"


def with_unit(text, unit):
    return text if unit in ("", "1", None) else f"{text} {unit}"


def plural(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"
