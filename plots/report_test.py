"""The report's page: whole, self-contained, safe against what stands in data, equal bytes.

Builds a small results folder with a grid figure, a figure of time shares, and one of a kind that
the page does not know, and reads the page as a browser's parser does. No browser is needed.
"""

import csv
import io
import json
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

PLOTS = Path(__file__).resolve().parent
SKIPPED = 77
BAD_DATA = 65
PACKAGE_MISSING = 69
MOST_BYTES = 5_000_000
HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(2)</script>&amp;\u2028'\""
ATTACK = ("\"onmouseover=\"alert(3)\" x='\" onfocus='alert(4)' --><!-- ]]></title></style></script>"
          "<script>alert(5)</script>&lt;attack")


# -- A results folder --------------------------------------------------------------------------


def record(config_hash, assumed="36us"):
    return {
        "record_format": 1, "program": {"name": "nearkv", "version": "1.2.3"}, "name": "r",
        "status": "ok", "status_detail": "", "config_hash": config_hash,
        "metrics": [{"name": "throughput", "value": 1, "unit": "token/s", "doc": HOSTILE}],
        "notes": [f"a note {HOSTILE}"],
        "config": {"csd": [{"flash": {"t_read": {
            "value": assumed, "source": "assumed", "citation": f"nobody, knowing X04 {HOSTILE}",
            "interval": ["25us", "60us"]}}}],
            "gpu": [{"peak": {"value": 1.5, "source": "datasheet", "citation": "a sheet"}}],
            "workload": {"batch": 4}},
    }


def claim(name, role="test", passes=True, **more):
    number = {"unit": "1", "paper": 2.0, "ours": 2.5, "ours_lowest": 2.4, "ours_highest": 2.6,
              "relative_difference": 0.25, "tolerance": 0.1}
    if "holds" in more:
        number = {"paper_holds": True}
    return {"id": name, "text": f"text of {name}", "role": role, "source": "the abstract",
            "detail": f"detail of {name}", "pass": passes,
            "why": "" if passes else f"reason of {name} {HOSTILE}", **number, **more}


CLAIMS = {
    "grid": [claim("X01"), claim("X02", "fit", False), claim("X03", passes=False, holds=False),
             claim("X04", samples={"told": 8, "interval": [1.5, 3.5]}),
             claim("X05", holds=True, samples={"told": 8, "hold": 7}),
             claim("X06", passes=False, ours=None, relative_difference=None)],
    "shares": [claim("Y01")],
    "odd": [],
}
GRID = """series,batch [sequences],status,memory,fidelity,config_hash,throughput_lowest [token/s],\
throughput_highest [token/s],throughput [token/s],high_water/VRAM [B]
flexgen,4,ok,,sampled,a1,0.9,1.1,1,2e9
flexgen,64,out_of_memory,VRAM,sampled,a2,,,,3e9
my_system,4,ok,,sampled,b1,5,5,5,
my_system,64,ok,,sampled,b2,60,70,65.25,
"""
SHARES = """series,batch [sequences],status,memory,fidelity,config_hash,kv_access_share,\
share/kv_access,share/weights
flexgen,4,ok,,sampled,a1,0.9,0.9,0.1
flexgen,64,infeasible,,sampled,a2,,,
"""


def write_json(path, document):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def write_picture(path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    stream = io.BytesIO()
    plt.figure(figsize=(1, 1)).savefig(stream, format="png", metadata={"Software": None})
    path.write_bytes(stream.getvalue())


def grid_config(metric):
    return {"title": HOSTILE, "source": "a paper", "metric": metric,
            "axis": {"path": "/workload/batch", "name": "batch", "unit": "sequences",
                     "values": [4, 64], "quick": [4]},
            "series": [{"name": "flexgen"}, {"name": "my_system"}]}


def make_results(folder):
    """Returns the data that the program would hand over."""
    results = folder / "results"
    odd = f"unit,what,value [us]\n{HOSTILE.replace(chr(34), '')},,3\n"
    for name, table, config in (("grid", GRID, grid_config("throughput")),
                                ("shares", SHARES, grid_config("kv_access_share")),
                                ("odd", odd, {"kind": "unheard-of"})):
        write_json(folder / "configs" / f"{name}.json", config)
        write_json(results / f"{name}.claims.json", {
            "figure": name, "title": f"Title of {name}: {HOSTILE}", "source": "A paper, Figure 1",
            "quick": False, "program": {"name": "nearkv", "version": "1.2.3"},
            "claims": CLAIMS[name]})
        (results / f"{name}.csv").write_text(table, encoding="utf-8")
        for config_hash in ("a1", "a2", "b1", "b2") if name != "odd" else ():
            write_json(results / name / f"{config_hash}.record.json", record(config_hash))
    write_json(results / "grid.wall.json", {
        "points": [{"name": "a1", "use": {"wall_seconds": 1, "processor_seconds": 1.5,
                                          "peak_memory_bytes": 1048576}}],
        "build": {"version": "1.2.3", "compiler": HOSTILE, "build_type": "Release",
                  "simgrid": "3.32"},
        "machine": {"processor": HOSTILE, "cores": 2, "memory_bytes": 2**34, "system": None}})
    for name in ("grid", "odd"):
        write_picture(results / f"{name}.png")
    row = {**claim("Z01", passes=False),
           "cells": {"reference": "2 s", "simulated": "2.5 s", "error": "+25 %",
                     "tolerance": "10 %", "what": f"why: {HOSTILE}"}}
    role = {"rows": 1, "passing": 0, "median": "25 %", "worst": "25 %"}
    paper = {"name": "paper", "title": "Claims", "source": "A paper", "rows": [row],
             "statistics": {"test": role, "fit": {**role, "rows": 0}},
             "requirements": [{"group": "all", "median": "25 %", "most_median": "10 %",
                               "worst": "25 %", "most_worst": "", "pass": False, "why": HOSTILE}],
             "not_covered": [{"row": "r9", "reason": HOSTILE}]}
    return {
        "version": "1.2.3", "build": {"version": "1.2.3"}, "results": str(results), "quick": False,
        "all_figures": True, "entry_script": str(PLOTS.parent / "nearkv"),
        "figures": [{"name": name, "stem": name, "config": str(folder / "configs" / f"{name}.json")}
                    for name in CLAIMS],
        "validation": {"suites": [paper]},
    }


def write_page(folder, data, name="page.html", script="report.py", **more):
    write_json(folder / "data.json", data)
    command = [sys.executable, "-B", str(PLOTS / script), str(folder / "data.json"),
               str(folder / name)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


# -- Reading a page ----------------------------------------------------------------------------


class Page(HTMLParser):
    """What a parser finds: elements with their attributes, scripts, the text that is shown."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.shown, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.inside is None:
            self.shown.append(data)

    def text(self):
        return "".join(self.shown)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def data(self, name):
        return next((json.loads(text) for attributes, text in self.scripts
                     if attributes.get("id") == name), None)


def page_at(path):
    return Page(path.read_text(encoding="utf-8"))


# -- Checks ------------------------------------------------------------------------------------


def check_numbers(_folder):
    sys.path.insert(0, str(PLOTS))
    from report_constants import in_runs
    from report_html import cell_number, quantity
    for value, unit, expected in (
            (32212254.7, "1", "32.2 million"), (3.2e10, "1", "32.0 billion"), (5.42e9, "B/s",
             "5.42 GB/s"), (1.548e14, "FLOP/s", "155 TFLOP/s"), (3.2e-7, "s", "320 ns"),
            (2e-10, "s", "0.200 ns"), (0.002, "s", "0.00200 s"), (11.5, "token/s", "11.5 token/s"),
            (0, "s", "0 s"), (999999, "B", "999999 B"), (-2e6, "B", "-2.00 MB"),
            (2e-5, "1", "2.00e-05")):
        assert quantity(value, unit) == expected, (value, unit, quantity(value, unit))
    for value, unit, expected in ((3.0, "1", "3"), (0.5, "1", "0.5"), (0.1234, "1", "0.123"),
                                  (5.42e9, "B/s", "5.42 GB/s"), (None, "1", "-"), (0, "s", "0")):
        assert cell_number(value, unit) == expected, (value, cell_number(value, unit))
    names = ["a", "b", "c", "d", "e"]
    assert in_runs(["a", "c", "d", "e"], names) == "a, c to e"
    assert in_runs(["a", "b", "d"], names) == "a, b, d" and in_runs([], names) == ""


def check_whole_and_equal(folder):
    data = make_results(folder)
    for name in ("page.html", "again.html"):
        done = write_page(folder, data, name)
        assert done.returncode == 0, done.stderr
    first, again = ((folder / name).read_bytes() for name in ("page.html", "again.html"))
    assert first == again, "two pages of equal data differ"
    assert len(first) < MOST_BYTES, len(first)
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["again.html", "configs", "data.json", "page.html", "results"], left

    page = page_at(folder / "page.html")
    ids = page.ids()
    assert len(set(ids)) == len(ids), "an id twice"
    for name, claims in CLAIMS.items():
        assert name in ids, f"{name} has no section"
        for one in claims:
            assert f"claim-{one['id']}" in ids, one["id"]
            assert one["text"] in page.text(), one["id"]
    for part in ("constants", "validation", "environment", "reproduce", "suite-paper"):
        assert part in ids, part
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert {link[1:] for link in links} <= set(ids), "a link that leads nowhere"
    text = page.text()
    for part in ("/csd/0/flash/t_read", "25us to 60us", "reason of X02", "1.50 to 3.50",
                 "yes in 7 of 8", "OOM VRAM", "no number", "(X04): nobody", "65.2", "1 assumed",
                 "1 unpublished choice made with test claims in view", "1.5 s", "r9"):
        assert part in text, f"the page lacks {part!r}"
    assert text.count("MISS") >= 4


def check_self_contained(folder):
    write_page(folder, make_results(folder))
    page = page_at(folder / "page.html")
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            address = attributes.get(key) or ""
            is_inside = address.startswith(("#", "data:image/png;base64,"))
            assert is_inside or not address, (tag, address)
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
    policy = next(attributes["content"] for tag, attributes in page.elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "http" not in policy, policy
    style = (folder / "page.html").read_text(encoding="utf-8").split("<style>")[1].split("</")[0]
    assert "url(" not in style and "@import" not in style


def check_nothing_escapes(folder):
    """Texts from data stay texts: no element, attribute or script comes of them."""
    write_page(folder, make_results(folder))
    page = page_at(folder / "page.html")
    for tag, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
        assert tag != "img" or attributes["src"].startswith("data:"), attributes
    assert not [text for _, text in page.scripts if text.startswith("alert")]
    assert page.text().count("<img src=x onerror=alert(1)>") > 10, "the text is not shown as it is"
    charts = page.data("chart-data")
    if charts is None:
        return  # without Vega
    docs = [metric["doc"] for metric in charts["grid"]["metrics"]]
    assert HOSTILE in docs, docs


def with_one_changed(node):
    """Copies of a document in each of which one text, or one name of a member, is the attack."""
    if isinstance(node, str):
        yield ATTACK
    elif isinstance(node, list):
        for i, child in enumerate(node):
            for changed in with_one_changed(child):
                yield node[:i] + [changed] + node[i + 1:]
    elif isinstance(node, dict):
        for key, child in node.items():
            yield {**{name: value for name, value in node.items() if name != key}, ATTACK: child}
            for changed in with_one_changed(child):
                yield {**node, key: changed}


def attacked_files(folder):
    """(file, its text with one text in it changed) of each kind of file behind the page."""
    results = folder / "results"
    for path in (results / "grid.claims.json", results / "grid.wall.json",
                 results / "grid" / "a1.record.json", folder / "configs" / "grid.json"):
        for changed in with_one_changed(json.loads(path.read_text(encoding="utf-8"))):
            yield path, json.dumps(changed)
    for path in sorted(results.glob("*.csv")):
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        for i, row in enumerate(rows):
            for j in range(len(row)):
                changed = [*rows[:i], [*row[:j], ATTACK, *row[j + 1:]], *rows[i + 1:]]
                stream = io.StringIO()
                csv.writer(stream).writerows(changed)
                yield path, stream.getvalue()


def check_each_text_stays_text(folder):
    """One text after the other is an attack: no other element or attribute comes of it."""
    sys.path.insert(0, str(PLOTS))
    import report

    def page_with(data):
        try:
            figures = [report.Figure(data["results"], one["name"], one["stem"], one["config"])
                       for one in data["figures"]]
            # Charts are there, so that their data are; Vega itself is not needed.
            return Page(report.page_of(data, figures, [("none", "")]))
        except (report.BadResults, KeyError, TypeError, ValueError, AttributeError):
            return None  # a name or a number that it needs: refused, no page

    data = {**make_results(folder), "entry_script": ""}  # else packages are looked for each time
    known = page_with(data)
    tags = {tag for tag, _ in known.elements} | {"br"}
    keys = {key for _, attributes in known.elements for key in attributes}
    shown, pages = 0, 0

    def check(page, where):
        nonlocal shown, pages
        if page is None:
            return
        pages += 1
        shown += "<script>alert(5)</script>&lt;attack" in page.text()
        for tag, attributes in page.elements:
            assert tag in tags and attributes.keys() <= keys, (where, tag, attributes)
        assert len(page.scripts) == len(known.scripts), where
        for tag, attributes in page.elements:
            assert tag != "img" or attributes["src"].startswith("data:image/png;"), where
            assert tag != "a" or attributes["href"].startswith("#"), where

    for path, text in attacked_files(folder):
        before = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        check(page_with(data), (path.name, text))
        path.write_bytes(before)
    for part in ("validation", "build"):
        for changed in with_one_changed(data[part]):
            check(page_with({**data, part: changed}), (part, changed))
    assert pages > 200 and shown > 100, (pages, shown)


def check_chart_data(folder):
    write_page(folder, make_results(folder))
    charts = page_at(folder / "page.html").data("chart-data")
    if charts is None:
        print("without Vega: no charts to check")
        return
    assert set(charts) == {"grid", "shares", "claims", "validation"}, set(charts)
    grid = charts["grid"]
    assert grid["kind"] == "bars" and charts["shares"]["kind"] == "stack"
    assert [metric["name"] for metric in grid["metrics"]] == ["throughput", "high_water/VRAM"]
    assert grid["points"][1][2] == "OOM VRAM" and grid["points"][1][3] == [None, 3e9]
    assert grid["points"][3] == ["my_system", "64", "", [65.25, None], 60, 70], grid["points"][3]
    colours = [series["colour"] for series in grid["series"]]
    assert colours[0] == "#e69f00" and colours[1] not in ("#ffffff", colours[0]), colours
    ratios = {point[0]: point[1] for point in charts["claims"]["points"]}
    assert ratios == {"X01": 1.25, "X02": 1.25, "X04": 1.25, "Y01": 1.25, "Z01": 1.25}, ratios
    assert charts["validation"]["points"][0][:5] == ["paper", "Z01", "test", 2.0, 2.5]


def check_without_vega(folder):
    (folder / "without.py").write_text(
        f"import sys\nsys.path.insert(0, {str(PLOTS)!r})\nimport pathlib, report\n"
        f"report.charts.VEGA_FOLDER = pathlib.Path({str(folder / 'none')!r})\n"
        "sys.exit(report.main())\n", encoding="utf-8")
    done = write_page(folder, make_results(folder), script=folder / "without.py")
    assert done.returncode == 0, done.stderr
    assert "libjs-vega" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    page = page_at(folder / "page.html")
    assert page.data("chart-data") is None
    assert [tag for tag, _ in page.elements].count("img") == 2
    assert "claim-X01" in page.ids()


def check_quick_and_nothing(folder):
    """Without validation, and without any figure."""
    data = make_results(folder)
    done = write_page(folder, {**data, "validation": None, "quick": True})
    assert done.returncode == 0, done.stderr
    page = page_at(folder / "page.html")
    assert "validation" not in page.ids() and "--quick" in page.text()
    misses = page.text().count("MISS")
    claims = folder / "results" / "grid.claims.json"
    write_json(claims, {**json.loads(claims.read_text(encoding="utf-8")), "quick": True})
    assert write_page(folder, {**data, "validation": None, "quick": True}).returncode == 0
    text = page_at(folder / "page.html").text()
    assert text.count("MISS") == misses - 3, "a claim that a quick figure leaves open is missed"
    assert "1 claim cannot be judged" in text and "1 open" in text
    done = write_page(folder, {**data, "figures": [], "validation": None})
    assert done.returncode == 0, done.stderr


def check_bad_files(folder):
    data = make_results(folder)
    results = folder / "results"
    cases = [
        ("grid.claims.json", '{"claims": [', ":1:"),
        ("grid.claims.json", "[1]", "is not what nearkv figure grid writes"),
        ("grid.claims.json", '{"claims": [{"id": "X"}]}', "make it again"),
        ("grid.csv", "", "is empty"),
        ("grid.csv", GRID + "flexgen,8\n", "row 6 has 2 cells"),
        ("grid.csv", GRID.replace("65.25", "fast"), "'fast' is no number"),
        ("grid.csv", None, "cannot be read"),
        ("grid/a1.record.json", "{}", "/record_format: must be 1"),
        ("grid/a1.record.json", '{"record_format": 1}', "/config_hash: missing"),
        ("grid.wall.json", "{", "is it cut off?"),
        ("odd.png", "GIF", "is no whole PNG picture"),
        ("../configs/grid.json", "{", "is it cut off?"),
    ]
    for name, text, expected in cases:
        path = results / name
        before = path.read_bytes()
        path.unlink()
        if text is not None:
            path.write_text(text, encoding="utf-8")
        done = write_page(folder, data, "bad.html")
        assert done.returncode == BAD_DATA, (name, done)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and Path(name).name in lines[0] and expected in lines[0], done.stderr
        assert not (folder / "bad.html").exists()
        path.write_bytes(before)


def check_missing_matplotlib(folder):
    (folder / "python").mkdir()
    (folder / "python" / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')\n")
    done = write_page(folder, make_results(folder), env={"PYTHONPATH": str(folder / "python")})
    assert done.returncode == PACKAGE_MISSING, done
    assert "python3-matplotlib" in done.stderr, done.stderr


def main():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
        return SKIPPED
    for check in (check_numbers, check_whole_and_equal, check_self_contained, check_nothing_escapes,
                  check_each_text_stays_text, check_chart_data, check_without_vega,
                  check_quick_and_nothing, check_bad_files, check_missing_matplotlib):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
