"""Claims of the paper in the report: their tables, and the first screen with all of them."""

import re

import report_charts as charts
from report_constants import informed_choices
from report_html import (code, details, element, join, link, percent, plural, quantity, scaled,
                         significant, table, with_unit)
from report_results import TIMELINES

def yes_or_no(truth):
    return "undecided" if truth is None else ("yes" if truth else "no")


def verdict_of(claim):
    if claim.get("is_open"):
        return element("span", "open", class_="open")
    return verdict(claim["pass"])


def is_missed(claim):
    return not claim["pass"] and not claim.get("is_open")


def verdict(passes):
    return element("span", "pass" if passes else "MISS", class_="pass" if passes else "miss")


def is_truth(claim):
    return "holds" in claim


def paper_text(claim):
    if is_truth(claim):
        return yes_or_no(claim["paper_holds"])
    return (scaled(claim["paper"], claim["unit"])
            or with_unit(f"{claim['paper']:g}", claim["unit"]))


def ours_text(claim):
    if is_truth(claim):
        return yes_or_no(claim["holds"])
    if claim["ours"] is None:
        return "no number"
    bound = max(claim["ours_highest"] - claim["ours"], claim["ours"] - claim["ours_lowest"])
    if bound <= 1e-4 * abs(claim["ours"]):
        return quantity(claim["ours"], claim["unit"])
    if scaled(claim["ours"], claim["unit"]):
        return f"{quantity(claim['ours'], claim['unit'])} ± {percent(bound / abs(claim['ours']))}"
    return with_unit(f"{significant(claim['ours'])} ± {significant(bound, 1)}", claim["unit"])


def samples_text(claim):
    samples = claim.get("samples") or {}
    if "interval" in samples:
        return " to ".join(scaled(end, claim["unit"]) or significant(end)
                           for end in samples["interval"])
    return f"yes in {samples['hold']} of {samples['told']}" if samples.get("told") else ""


def difference_text(claim):
    difference = claim.get("relative_difference")
    return "" if difference is None else percent(difference, sign=True)


def words(claim):
    """What is claimed, the numbers behind it, and why it is missed."""
    parts = [element("span", claim["text"])]
    if claim["detail"] and not (is_truth(claim) and claim["pass"]):
        detail = re.sub(r"\b\d{7,}\b", lambda found: scaled(float(found[0]), "1"), claim["detail"])
        parts.append(element("span", f" ({detail})", class_="detail"))
    if claim["why"]:
        parts.append(element("p", element("b", "Why: "), claim["why"], class_="why"))
    return join(parts)


def in_order(claims):
    return sorted(claims, key=lambda claim: claim["role"] != "test")  # stable: then as they came


def claims_table(claims, caption, anchors=False):
    has_samples = any(claim.get("samples") for claim in claims)
    columns = ["claim", "*what", " paper", " ours", " difference", " tolerance", "role", "verdict"]
    if has_samples:
        columns.insert(4, " 90 % of samples")
    rows = []
    for claim in in_order(claims):
        cells = [code(claim["id"]), words(claim), paper_text(claim), ours_text(claim),
                 difference_text(claim), "" if is_truth(claim) else percent(claim["tolerance"]),
                 claim["role"], verdict_of(claim)]
        if has_samples:
            cells.insert(4, samples_text(claim))
        rows.append((cells, {"id": f"claim-{claim['id']}" if anchors else None,
                             "class_": "missed" if is_missed(claim) else None}))
    return table(columns, rows, caption=caption, class_="blocks")


def counts(claims, role):
    own = [claim for claim in claims if claim["role"] == role and not claim.get("is_open")]
    return sum(claim["pass"] for claim in own), len(own)


# -- The first screen --------------------------------------------------------------------------


def all_claims(figures, validation):
    """Those of the figures, and the paper's others from the validation, in the paper's order; each
    with the anchor where it stands."""
    found = {claim["id"]: {**claim, "anchor": f"claim-{claim['id']}"}
             for figure in figures for claim in figure.claims}
    for suite in validation["suites"] if validation else []:
        if suite["name"] == "paper":
            for row in suite["rows"]:
                found.setdefault(row["id"], {**row, "anchor": row_anchor(suite, row)})
    return [found[name] for name in sorted(found)]


def row_anchor(suite, row):
    return f"row-{suite['name']}-{row['id']}"


def summary_row(claim):
    return [link(claim["anchor"], claim["id"]), words(claim), paper_text(claim),
            ours_text(claim), difference_text(claim), claim["role"], verdict_of(claim)]


def summary_table(claims, caption):
    return table(["claim", "*what", " paper", " ours", " difference", "role", "verdict"],
                 [(summary_row(claim), {"class_": "missed" if is_missed(claim) else None})
                  for claim in claims], caption=caption, class_="blocks")


def tile(passing, number, what):
    share = 100 * passing / number if number else 0
    bar = element("div", element("div", style=f"width:{share:.1f}%"), class_="bar",
                  aria_hidden="true")
    return element("div", element("p", element("b", str(passing)), f" of {number}", class_="count"),
                   element("p", what), bar, class_="tile")


def headline(claims):
    """The claims of the paper's abstract."""
    own = [claim for claim in claims if "abstract" in claim.get("source", "").lower()]
    return summary_table(own, "The paper's headline") if own else None


# What a reader who is new to the field meets on the page.
WORDS = (
    ("claim", "a number or a sentence of the paper about its results, with the number that the "
              "simulation gives; it misses where the difference is larger than the tolerance"),
    ("test, fit", "a test claim has set no constant and is a prediction; one of role fit may have "
                  "set one, so that it says little when it is met"),
    ("prefill, decode", "a model reads the prompt in prefill, all tokens at once, and then makes "
                        "one token a step in decode"),
    ("KV cache", "the keys and values of all earlier tokens, which each decode step reads; for "
                 "long texts and many sequences it is larger than the GPU's memory (VRAM)"),
    ("batch", "how many sequences are served at a time"),
    ("OOM", "out of memory: the point does not run, and behind it stands which memory is full"),
    ("CSD", "computational storage drive: a flash drive that computes attention itself, so that "
            "the KV cache need not leave it"),
    ("InstI-Dense, InstI-SparF", "the paper's systems, which compute decode attention in CSDs: "
                                 "over all of the KV cache, or over what matters most in it"),
    ("FlexGen, -GDS, -SparQ", "offload the KV cache to an SSD; read it straight into the GPU "
                              "(GPUDirect Storage); read only the part that SparQ selects"),
    ("DeepSpeed, Recompute", "keep the KV cache in host memory; keep what fits VRAM and compute "
                             "the rest again"),
    ("insti_sparf, flexgen_2", "claims name systems as the configs do; _2 is with two drives"),
    ("assumed, fit constants", "not published: chosen, with an interval, or set by rows of role "
                               "fit; the others come from data sheets, the paper or measurements"),
)


def glossary():
    rows = (element("div", element("dt", word), element("dd", meaning)) for word, meaning in WORDS)
    return details("Words of this page", element("dl", *rows), class_="glossary")


def ratio_data(claims):
    """Chart data of all claims with a number."""
    points = []
    for claim in claims:
        difference = claim.get("relative_difference")
        if difference is None or difference <= -1:
            continue
        points.append([claim["id"], charts.short_number(1 + difference), claim["role"],
                       claim["pass"], charts.short_number(claim["tolerance"]), paper_text(claim),
                       ours_text(claim), claim["text"], claim["anchor"]])
    return {"kind": "ratios", "points": points}


def first_screen(figures, claims, validation, data):
    tiles = [tile(*counts(claims, "test"), "claims of the paper that were never used to calibrate "
                                           "(test) are met within their tolerance"),
             tile(*counts(claims, "fit"), "claims that may have set a constant (fit) are met")]
    if validation:
        test = [suite["statistics"]["test"] for suite in validation["suites"]]
        tiles.append(tile(sum(one["passing"] for one in test), sum(one["rows"] for one in test),
                          f"test rows of all {plural(len(test), 'validation suite')} pass"))
    missed = in_order([claim for claim in claims if is_missed(claim)])
    unanswered = sum(claim.get("is_open", False) for claim in claims)
    left_out = "" if not data["quick"] else (
        " This is a quick report: figures have only some values of their axes, so that "
        f"{plural(unanswered, 'claim')} cannot be judged, and the validation is left out.")
    about = sorted({figure.source.split(",")[0] for figure in figures
                    if figure.source and figure.name != TIMELINES})
    return element(
        "section",
        element("h1", "NearKV report"),
        element("p", f"NearKV {data['version']} simulates LLM inference whose KV cache and decode "
                     "attention live in storage. This page sets what it computes beside what is "
                     f"published in {' and '.join(about)}: {plural(len(figures), 'figure')}, each "
                     "with its claims, their errors, and the constants that it rests on. What "
                     "misses stands beside what is met." + left_out, class_="lead"),
        element("div", *tiles, class_="tiles"),
        glossary(),
        headline(claims),
        informed_choices(figures, claims),
        element("figure", element("div", class_="chart", data_chart="claims",
                                  aria_label="Chart of all claims: ours over the paper's"),
                element("figcaption", "Ours over the paper's number, claim by claim; grey: what "
                        "its tolerance allows. A claim that is true or false has no ratio. "
                        "Filled: test, hollow: fit."), class_="needs-script")
        if ratio_data(claims)["points"] else None,
        element("h2", f"What misses: {plural(len(missed), 'claim')}"),
        summary_table(missed, "Claims that are missed") if missed else
        element("p", "Nothing of what was looked at."),
        id="summary")
