"""Drives `nearkv report`: makes what is missing, keeps what is there, refuses what is not ours.

What is in the page is plots/report_test.py's; wrong options are bad_configs_check.py's.
Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
OK, USER_ERROR = 0, 2
FIGURE = "fig18"  # of the quickest
NO_CHARTS = "warning: charts are pictures"


def report(folder, *arguments, status=OK):
    """Runs the command in a folder; returns (stdout, stderr)."""
    command = [BINARY, "report", FIGURE, "--quick", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout, [line for line in done.stderr.splitlines() if NO_CHARTS not in line]


def check_page(folder):
    """Two calls: the first one makes the figure, the second takes it; equal bytes."""
    text, errors = report(folder)
    if any("python3-matplotlib" in line for line in errors):
        return
    assert text == "wrote report.html\n", text
    assert any(f"{FIGURE}: " in line and "points in" in line for line in errors), errors
    page = (folder / "report.html").read_text(encoding="utf-8")
    claims = json.loads((folder / "results" / f"{FIGURE}_quick.claims.json").read_text())["claims"]
    assert claims
    for claim in claims:
        assert f'id="claim-{claim["id"]}"' in page, claim["id"]
        assert {"pass", "tolerance", "why", "source"} <= claim.keys(), claim
    assert f'id="{FIGURE}"' in page and 'id="constants"' in page
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    text, errors = report(folder, "--out", "again.html")
    assert errors == [], errors
    assert (folder / "again.html").read_text(encoding="utf-8") == page, "two pages differ"
    assert files == {path: path.read_bytes() for path in files}, "the results were touched"


def check_timelines(folder):
    """The figure of timelines has no claims and no points; it is kept where it is."""
    results = folder / "results"
    results.mkdir()
    (results / "gantt.csv").write_text("system,layer,timeline\nflexgen,20,flexgen.json\n")
    source = SOURCE / "plots" / "gantt_example.png"
    (results / "gantt.png").write_bytes(source.read_bytes())
    text, _ = report(folder, "gantt")
    if text:
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert 'id="gantt"' in page and f'id="{FIGURE}"' in page
        assert "no figure of the paper" not in page.split("</h1>")[1].split("</p>")[0]


def check_constants_are_all(folder):
    """The page takes constants out of configs; the records count those that a run used."""
    sys.path.insert(0, str(SOURCE / "plots"))
    from report_results import constants_of
    for path in (folder / "results" / f"{FIGURE}_quick").glob("*.record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        found = {}
        for _, constant in constants_of(record["config"]):
            found[constant["source"]] = found.get(constant["source"], 0) + 1
        assert found == record["constants"]["count_by_source"], (path.name, found)


def check_outdated(folder):
    """A record of another config is not taken for one of this figure."""
    record = next((folder / "results" / f"{FIGURE}_quick").glob("*.record.json"))
    document = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**document, "config_hash": "0"}), encoding="utf-8")
    _, errors = report(folder)
    assert any("made again" in line for line in errors), errors
    assert json.loads(record.read_text(encoding="utf-8")) == document


def check_refused(folder):
    """Files of another version, damaged and foreign ones: one line with the path."""
    stem = folder / "results" / f"{FIGURE}_quick"
    claims = stem.with_name(stem.name + ".claims.json")
    record = next(stem.glob("*.record.json"))
    document = json.loads(claims.read_text(encoding="utf-8"))
    other = {**document, "program": {"name": "nearkv", "version": "0.0.1"}}
    cases = [(claims, json.dumps(other), "is of nearkv 0.0.1"),
             (claims, json.dumps({**document, "figure": "fig19"}), "is not what nearkv figure"),
             (claims, '{"mine": true}', "is not what nearkv figure"),
             (claims, "{", "claims.json:1:"),
             (record, "[]", "a JSON object"),
             (record, '{"record_format": 2}', "/record_format: must be 1"),
             (record, '{"record_format": 1}', "is no run record"),
             (stem.with_name(stem.name + ".csv"), "a,b\n1\n", "row 2 has 1 cells")]
    for path, text, expected in cases:
        before = path.read_bytes()
        path.write_text(text, encoding="utf-8")
        text, errors = report(folder, "--out", "bad.html", status=USER_ERROR)
        assert text == "" and len(errors) == 1, (path.name, text, errors)
        assert path.name in errors[0] and expected in errors[0], errors
        assert not (folder / "bad.html").exists()
        path.write_bytes(before)


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_page(folder)
        if not (folder / "report.html").exists():
            print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
            return 77
        check_constants_are_all(folder)
        check_outdated(folder)
        check_refused(folder)
    with tempfile.TemporaryDirectory() as name:
        check_timelines(Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
