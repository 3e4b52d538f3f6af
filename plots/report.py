"""Writes the page of `nearkv report`: called as `report.py DATA.json OUT.html`.

DATA.json is what the program collected: the version, which figures are in which results folder,
and the rows of the validation. The page has everything in it and loads nothing: charts are drawn
by Vega, which is embedded as it is, and without it the figures' pictures take their place. Equal
inputs give equal bytes on one machine; what differs between machines is in the last section.
"""

import sys
from pathlib import Path

import report_charts as charts
import style
from report_claims import all_claims, first_screen, is_missed, ratio_data
from report_constants import constants_section
from report_environment import environment_section, reproduce_section
from report_figures import figure_section
from report_html import Html, as_script_data, details, element, link
from report_results import BadResults, Figure, read_json
from report_validation import validation_section

EXIT_BAD_DATA = 65  # EX_DATAERR; nearkv prints the line and ends with a user error
HERE = Path(__file__).resolve().parent
# The page may load nothing at all, and runs no text as a program.
POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
          "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'")


def contents(figures, has_constants, has_validation):
    entries = [("summary", "Summary", None)]
    for figure in figures:
        missed = sum(is_missed(claim) for claim in figure.claims)
        entries.append((figure.name, f"{figure.name} {figure.title}", missed))
    if has_constants:
        entries.append(("constants", "Constants", None))
    if has_validation:
        entries.append(("validation", "Validation", None))
    entries += [("environment", "Environment", None), ("reproduce", "Make it again", None)]
    items = [element("li", link(target, text, title=text), element(
        "span", f" {missed} miss", class_="miss") if missed else None)
        for target, text, missed in entries]
    return element("nav", details("Contents", element("ul", *items), open=True), id="contents",
                   aria_label="Contents")


def patterns():
    """Hatches as SVG patterns; a chart's bar names the one of its colour and hatch."""
    return {"hatches": charts.HATCHES, "ink": charts.INK}


def script(text):
    """A script that is not data. None of ours or of Vega's has an end tag in it."""
    if "</script" in text.lower():
        raise ValueError("a script with an end tag in it")
    return Html(f"<script>{text}</script>")


def vega_scripts(parts):
    """Vega's modules as they are, each a function that is called when it is first needed."""
    begin = "const vegaModules = {};\n"
    texts = [script(begin)]
    for name, text in parts:
        texts.append(script(f'vegaModules["{name}"] = function (exports, module, require) {{\n'
                            f"{text}\n}};\n"))
    return texts


def page_of(data, figures, vega):
    validation = data["validation"]
    claims = all_claims(figures, validation)
    quick = " --quick" if data["quick"] else ""
    constants = constants_section(figures)
    sections = [first_screen(figures, claims, validation, data),
                *(figure_section(figure, f"./nearkv figure {figure.name}{quick}")
                  for figure in figures),
                constants, validation_section(validation), environment_section(figures, data),
                reproduce_section(data)]
    chart_data = {figure.name: charts.grid_data(figure) for figure in figures if figure.is_grid()}
    chart_data["claims"] = ratio_data(claims)
    if validation:
        chart_data["validation"] = charts.scatter_data(validation["suites"])
    scripts = []
    if vega:
        scripts = [as_script_data("chart-data", chart_data),
                   as_script_data("chart-specifications", charts.specifications()),
                   as_script_data("chart-patterns", patterns()), *vega_scripts(vega)]
    head = element(
        "head", element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"nearkv {data['version']}"),
        element("title", "NearKV report"),
        Html(f"<style>{(HERE / 'report_page.css').read_text(encoding='utf-8')}</style>"))
    body = element("body", contents(figures, constants is not None, bool(validation)),
                   element("main", *(part for part in sections if part is not None)),
                   element("div", id="tip", role="status", hidden=True), *scripts,
                   script((HERE / "report_page.js").read_text(encoding="utf-8")))
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def main():
    if len(sys.argv) != 3:
        print(f"usage: {Path(sys.argv[0]).name} DATA.json OUT.html", file=sys.stderr)
        return 2
    vega = charts.read_vega()
    try:
        data = read_json(sys.argv[1])
        figures = [Figure(data["results"], one["name"], one["stem"], one["config"])
                   for one in data["figures"]]
        page = page_of(data, figures, vega)
    except BadResults as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_DATA
    if vega is None:
        print(f"warning: charts are pictures: a part of Vega is missing in {charts.VEGA_FOLDER}; "
              f"install the Debian package {charts.VEGA_PACKAGE}", file=sys.stderr)
    style.write_atomically(sys.argv[2], page.encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
