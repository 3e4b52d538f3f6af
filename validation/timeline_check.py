"""nearkv run --timeline and nearkv explain, as a user calls them.

The record must be the same bytes with and without a timeline; the timeline must be what viewers
read (the trace event format), and the same bytes each time. What explain prints must add up to the
step, and be the same for a design point and for its record.

Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
POINT = "nearkv:design_points/insti_dense_opt13b_a6000.json"
SMALL = ["--set", "model/layers=3", "--set", "workload/batch=8",
         "--set", "workload/output_tokens=40"]


def nearkv(folder, *arguments):
    return subprocess.run([BINARY, *arguments], cwd=folder, capture_output=True, text=True,
                          check=False)


def succeed(folder, *arguments):
    done = nearkv(folder, *arguments)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def check_record_is_the_same(folder):
    succeed(folder, "run", POINT, *SMALL, "--out", "plain")
    said = succeed(folder, "run", POINT, *SMALL, "--out", "traced", "--timeline", "one.json")
    name = "insti_dense_opt13b_a6000.record.json"
    assert (folder / "plain" / name).read_bytes() == (folder / "traced" / name).read_bytes()
    assert "timeline: one.json: decode step 19, " in said, said
    printed = succeed(folder, "run", POINT, *SMALL, "--json", "--out", "x",
                      "--timeline", "two.json")
    assert json.loads(printed) == json.loads((folder / "plain" / name).read_text(encoding="utf-8"))
    assert (folder / "one.json").read_bytes() == (folder / "two.json").read_bytes()


def check_file(folder):
    """Balanced slices, in order on each track, and counters; only the steps that were asked for."""
    succeed(folder, "run", POINT, *SMALL, "--timeline", "steps.json", "--timeline-steps", "3:5")
    trace = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    assert trace["otherData"]["shown"] == "decode step 3 to decode step 4", trace["otherData"]
    assert any("samples decode steps" in note for note in trace["otherData"]["notes"])
    depth, latest, steps = {}, {}, []
    for event in trace["traceEvents"]:
        if event["ph"] in "BEstf":
            track = (event["pid"], event["tid"])
            assert event["ts"] >= latest.get(track, 0), event
            latest[track] = event["ts"]
            depth[track] = depth.get(track, 0) + {"B": 1, "E": -1}.get(event["ph"], 0)
            assert depth[track] >= 0, event
        if event["ph"] == "B" and event["name"].startswith("decode step"):
            steps.append(event["name"])
    assert not any(depth.values()), depth
    assert steps == ["decode step 3", "decode step 4"], steps
    assert {e["ph"] for e in trace["traceEvents"]} >= {"B", "E", "C", "M", "s", "t", "f"}


def check_explain(folder):
    explained = json.loads(succeed(folder, "explain", POINT, *SMALL, "--json"))
    assert explained["ps"] == sum(share["ps"] for share in explained["critical_path"])
    assert explained["ps"] == sum(share["ps"] for share in explained["resources"])
    twice = explained["twice_as_fast"]
    assert twice["resource"] == explained["resources"][0]["resource"], twice
    # A resource is never more than half as long on the path: the prediction is a bound.
    assert twice["predicted_ps"] <= twice["simulated_ps"] * 1.001, twice
    assert twice["simulated_speedup"] > 1.01, twice
    record = "plain/insti_dense_opt13b_a6000.record.json"
    assert json.loads(succeed(folder, "explain", record, "--json")) == explained
    text = succeed(folder, "explain", record)
    assert "decode step 19" in text and "twice as fast: predicted" in text, text
    other = json.loads(succeed(folder, "explain", record, "--json", "--twice", "csd/0/softmax"))
    assert other["twice_as_fast"]["resource"] == "csd/softmax", other
    prefill = json.loads(succeed(folder, "explain", record, "--json", "--phase", "prefill"))
    assert prefill["shown"] == "prefill", prefill


def check_closed_form(folder):
    """A drive whose channels are all that takes time: twice as fast halves the step."""
    slow = ["--set", "csd/0/flash/mega_transfers=2", "--set", "csd/0/flash/read_command/bus=0ns"]
    explained = json.loads(succeed(folder, "explain", POINT, *SMALL, *slow, "--json"))
    twice = explained["twice_as_fast"]
    assert explained["resources"][0]["resource"] == "csd/flash/channels", explained["resources"]
    assert explained["resources"][0]["share"] > 0.98, explained["resources"]
    assert 1.96 < twice["simulated_speedup"] < 2.001, twice
    assert abs(twice["predicted_speedup"] / twice["simulated_speedup"] - 1) < 0.01, twice


def check_changed_record(folder):
    record = json.loads((folder / "plain/insti_dense_opt13b_a6000.record.json").read_text())
    record["config"]["workload"]["batch"] = 9
    (folder / "changed.json").write_text(json.dumps(record))
    done = nearkv(folder, "explain", "changed.json")
    assert done.returncode == 2 and "/config_hash: is " in done.stderr, done.stderr
    assert not done.stdout, done.stdout


def main():
    with tempfile.TemporaryDirectory() as folder:
        for check in (check_record_is_the_same, check_file, check_explain, check_closed_form,
                      check_changed_record):
            check(Path(folder))
            print(f"{check.__name__}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
