"""Drives `nearkv run --samples`: intervals, the table of samples, shared draws, equal bytes.

Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
POINTS = SOURCE / "configs" / "design_points"
DENSE = POINTS / "insti_dense_opt13b_a6000.json"
DEEPSPEED = POINTS / "deepspeed_opt13b_a6000.json"
SAMPLES = 20
SMALL = ("--set", "workload/batch=4", "--set", "workload/output_tokens=16")


def nearkv(folder, *arguments):
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def samples_of(folder, name):
    with open(folder / f"{name}.samples.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record_of(folder, name):
    return json.loads((folder / f"{name}.record.json").read_text(encoding="utf-8"))


def percentile(values, percent):
    """As numpy has it: linear between the two nearest."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def check_intervals(folder):
    text = nearkv(folder, "run", DENSE, DEEPSPEED, *SMALL, "--samples", SAMPLES, "--jobs", 2)
    assert "90 % of the samples" in text, text
    assert f"{SAMPLES} of {SAMPLES} samples ran" in text, text
    name = DENSE.stem
    record, rows = record_of(folder / "results", name), samples_of(folder / "results", name)
    assert len(rows) == SAMPLES
    metrics = {metric["name"]: metric["value"] for metric in record["metrics"]}
    for metric, unit in (("throughput", "token/s"), ("decode_time", "s"), ("system_price", "USD")):
        values = [float(row[f"{metric} [{unit}]"]) for row in rows]
        low, high = record["samples"]["intervals"][metric]
        assert abs(low - percentile(values, 5)) < 1e-9 * low, (metric, low)
        assert abs(high - percentile(values, 95)) < 1e-9 * high, (metric, high)
        assert low < metrics[metric] < high, (metric, low, metrics[metric], high)
    varied, held = record["samples"]["varied"], record["samples"]["held"]
    listed = {use["path"]: use for source in ("assumed", "fit")
              for use in record["constants"][source]}
    assert set(varied) | set(held) == set(listed) and not set(varied) & set(held)
    assert all(("interval" in listed[path]) == (path in varied) for path in listed)
    # The nominal run is what it is without samples.
    plain = json.loads(nearkv(folder, "run", DENSE, *SMALL, "--json", "--out", "plain"))
    assert plain["digest"] == record["digest"] and plain["metrics"] == record["metrics"]
    assert "samples" not in plain


def check_draws(folder):
    """One draw a constant: a point without the CSD has the same ones for the GPU and the host."""
    dense, deepspeed = (samples_of(folder / "results", point.stem) for point in (DENSE, DEEPSPEED))
    shared = [column for column in dense[0] if column.startswith("/") and column in deepspeed[0]]
    assert any(column.startswith("/gpu/0/") for column in shared), shared
    for column in shared:
        assert [row[column] for row in dense] == [row[column] for row in deepspeed], column
    own = [column for column in dense[0] if column.startswith("/csd/")]
    assert own and not any(column in deepspeed[0] for column in own)
    # A Latin hypercube: as many samples below the value as above it, 90 % in the interval.
    record = record_of(folder / "results", DENSE.stem)
    constant = record["config"]["csd"][0]["flash"]["t_read"]
    microseconds = [float(text.removesuffix("us"))
                    for text in (*constant["interval"], constant["value"])]
    low, high, value = (number * 1e-6 for number in microseconds)
    drawn = [float(row["/csd/0/flash/t_read [s]"]) for row in dense]
    assert sum(number < value for number in drawn) == SAMPLES / 2, drawn
    assert sum(low <= number <= high for number in drawn) == SAMPLES * 0.9, drawn


def check_equal_bytes(folder):
    for out, jobs, seed in (("one", 1, 1), ("two", 3, 1), ("other", 2, 2)):
        nearkv(folder, "run", DENSE, *SMALL, "--samples", SAMPLES, "--out", out, "--jobs", jobs,
               "--seed", seed)
    for ending in ("record.json", "samples.csv"):
        one, two, other = ((folder / out / f"{DENSE.stem}.{ending}").read_bytes()
                           for out in ("one", "two", "other"))
        assert one == two, f"{ending} depends on the number of jobs"
        assert one != other, f"{ending} does not depend on the seed"


def check_samples_that_do_not_run(folder):
    """Some do not fit VRAM, some break a rule (idle above the limit); both are results."""
    point = {
        "extends": str(DENSE),
        "name": "tight",
        "gpu": [{
            "extends": "nearkv:platforms/gpus/a6000.json",
            "memory_capacity": {"value": "27GiB", "interval": ["24GiB", "30GiB"],
                                "source": "assumed", "citation": "for this check"},
            "power": {"idle": {"value": "200W", "interval": ["100W", "400W"],
                               "source": "assumed", "citation": "for this check"}},
        }],
    }
    (folder / "tight.json").write_text(json.dumps(point), encoding="utf-8")
    text = nearkv(folder, "run", "tight.json", *SMALL, "--samples", SAMPLES)
    record, rows = record_of(folder / "results", "tight"), samples_of(folder / "results", "tight")
    samples = record["samples"]
    failed = sum(samples["did_not_run"].values())
    assert 0 < samples["ran"] < SAMPLES and samples["ran"] + failed == SAMPLES, samples
    assert f"{samples['ran']} of {SAMPLES} samples ran" in text, text
    assert sum(row["status"] != "ok" for row in rows) == failed
    statuses = {row["status"] for row in rows}
    assert statuses == {"ok", "infeasible", "refused"}, statuses
    assert all(row["why_not"] for row in rows if row["status"] != "ok")


def sourced_in(node):
    if isinstance(node, dict) and {"value", "source", "citation"} <= node.keys():
        yield node
    elif isinstance(node, (dict, list)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from sourced_in(child)


def check_reasons(_folder):
    """The citation of a constant with an interval says why it is that wide."""
    files = [file for file in (SOURCE / "configs").rglob("*.json") if file.parent.name != "schema"]
    found = 0
    for file in files:
        for constant in sourced_in(json.loads(file.read_text(encoding="utf-8"))):
            if "interval" in constant:
                found += 1
                assert "interval" in constant["citation"], (file.name, constant)
    assert found > 100, found


def main():
    with tempfile.TemporaryDirectory() as folder:
        for check in (check_reasons, check_intervals, check_draws, check_equal_bytes,
                      check_samples_that_do_not_run):
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
