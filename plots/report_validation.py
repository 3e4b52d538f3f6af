"""The validation in the report: suites, what is required of them, and all rows."""

from report_claims import in_order, row_anchor, verdict
from report_html import code, details, element, filter_controls, join, link, table

def suite_rows(suite):
    columns = ["row", " reference", " simulated", " error", " tolerance", "role", "verdict",
               "*what"]
    rows = []
    for row in in_order(suite["rows"]):
        cells = row["cells"]
        rows.append(([code(row["id"]), cells["reference"], cells["simulated"], cells["error"],
                      cells["tolerance"], row["role"], verdict(row["pass"]), cells["what"]],
                     {"id": row_anchor(suite, row), "class_": None if row["pass"] else "missed",
                      "data_kind": "pass" if row["pass"] else "miss"}))
    name = f"rows-{suite['name']}"
    return join([filter_controls(name, ["pass", "miss"]),
                 table(columns, rows, caption=f"Rows of {suite['name']}", id=name,
                       class_="blocks")])


def requirement_rows(suites):
    return [([suite["name"], join([one["group"], element(
                "p", element("b", "Why: "), one["why"], class_="why") if one["why"] else None]),
              one["median"], one["most_median"], one["worst"], one["most_worst"],
              verdict(one["pass"])], {"class_": None if one["pass"] else "missed"})
            for suite in suites for one in suite["requirements"]]


def validation_section(validation):
    if not validation:
        return None
    suites = validation["suites"]
    overview = []
    for suite in suites:
        test, fit = (suite["statistics"][role] for role in ("test", "fit"))
        overview.append([link(f"suite-{suite['name']}", suite["name"]), suite["title"],
                         test["rows"], test["passing"], test["median"], test["worst"], fit["rows"],
                         fit["passing"]])
    blocks = []
    for suite in suites:
        left_out = [element("p", f"{one['row']} is not covered: {one['reason']}")
                    for one in suite["not_covered"]]
        missed = sum(not row["pass"] for row in suite["rows"])
        blocks.append(details(
            element("span", element("b", suite["name"]), f": {suite['title']} "
                    f"({len(suite['rows'])} rows, {missed} miss)"),
            element("p", suite["source"], class_="source"), suite_rows(suite), *left_out,
            id=f"suite-{suite['name']}"))
    required = requirement_rows(suites)
    return element(
        "section",
        element("h2", "Validation"),
        element("p", "All references that the models are compared with. Test rows have never "
                     "entered a calibration; errors are of the test rows with a number."),
        table(["suite", "*what", " test rows", " pass", " median error", " worst", " fit rows",
               " pass"], overview, caption="Suites", class_="blocks"),
        element("figure", element("div", class_="chart", data_chart="validation",
                                  aria_label="Chart of all rows: simulated against reference"),
                element("figcaption", "Simulated against reference. Filled: test, hollow: fit; "
                        "lines: equal, and 10 % off."), class_="needs-script"),
        table(["suite", "*test rows", " median error", " at most", " worst", " at most",
               "verdict"], required, caption="Required of the test rows as a whole",
              class_="blocks")
        if required else None,
        *blocks, id="validation")
