"""Runs that take more time or memory than they may: stopped, recorded, and never taken as results.

Needs NEARKV_BINARY and NEARKV_HOME.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEARKV = os.environ["NEARKV_BINARY"]
OK, STOPPED = 0, 3
DENSE = "nearkv:design_points/insti_dense_opt13b_a6000.json"
SLOW = ("--set", "workload/batch=256", "--set", "simulation/fidelity=exact")  # many seconds
QUICK = ("--set", "workload/batch=4", "--set", "workload/output_tokens=8")
WALL = "stopped: ran longer than 200ms (--max-wall)"
MEMORY = "stopped: took more than 1MiB of memory (--max-memory)"  # a process has more at its start


def run(*arguments, status=OK):
    started = time.monotonic()
    done = subprocess.run([NEARKV, *map(str, arguments)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    assert status == OK or time.monotonic() - started < 60, f"{arguments} took long to stop"
    return done


def check_run(folder):
    """The record says why, with the config and without metrics."""
    for name, option, detail in (("wall", ("--max-wall", "200ms"), WALL),
                                 ("memory", ("--max-memory", "1MiB"), MEMORY)):
        done = run("run", DENSE, *SLOW, *option, "--out", folder / name, status=STOPPED)
        assert detail in done.stdout, done.stdout
        assert done.stderr.endswith(f"{Path(DENSE).name}: {detail}\n"), done.stderr
        record = json.loads((folder / name / "insti_dense_opt13b_a6000.record.json").read_text())
        assert (record["status"], record["status_detail"]) == ("stopped", detail), record["status"]
        assert record["metrics"] == [] and record["config"]["workload"]["batch"] == 256
        assert record["constants"]["assumed"], "the record lacks its constants"
        wall = json.loads((folder / name / "insti_dense_opt13b_a6000.wall.json").read_text())
        assert wall["use"]["peak_memory_bytes"] > 2**20, wall
    limits = ("--max-wall", "10min", "--max-memory", "100GB")
    run("run", DENSE, *QUICK, "--out", folder / "free")
    run("run", DENSE, *QUICK, *limits, "--out", folder / "far")
    names = [Path(name) / "insti_dense_opt13b_a6000.record.json" for name in ("free", "far")]
    assert (folder / names[0]).read_bytes() == (folder / names[1]).read_bytes()


def check_samples_and_timeline(folder):
    done = run("run", DENSE, *SLOW, "--samples", "10", "--max-wall", "200ms", "--out",
               folder / "samples", status=STOPPED)
    assert WALL in done.stderr and not list((folder / "samples").glob("*.csv")), done
    done = run("run", DENSE, *QUICK, "--max-memory", "1MiB", "--timeline", folder / "time.json",
               "--out", folder / "timeline", status=STOPPED)
    assert MEMORY in done.stderr and not (folder / "time.json").exists(), done


def check_figure(folder):
    """A figure with a hole is no figure."""
    done = run("figure", "fig14", "--quick", "--max-memory", "1MiB", "--out", folder / "figure",
               status=STOPPED)
    assert MEMORY in done.stderr and "nothing was written" in done.stderr, done.stderr
    assert not list((folder / "figure").rglob("*.record.json"))


def check_validate(folder):
    """What was stopped is not in the cache: the next call runs it."""
    suite = ("validate", "--suite", "closed_form", "--cache", folder / "cache")
    done = run(*suite, "--max-memory", "1MiB", status=STOPPED)
    assert MEMORY in done.stderr, done.stderr
    assert not list((folder / "cache").rglob("*.record"))
    run(*suite)


def rows_of(folder):
    return list(csv.DictReader((folder / "points.csv").read_text(encoding="utf-8").splitlines()))


def check_sweep(folder):
    """Stopped points are rows that --retry-failed runs again, with other limits if given."""
    sweep = {"title": "a test",
             "point": {"extends": DENSE, "workload": {"output_tokens": 8}},
             "axes": [{"path": "/workload/batch", "values": [4, 8]}]}
    plain = folder / "plain.json"
    plain.write_text(json.dumps(sweep), encoding="utf-8")
    bounded = folder / "bounded.json"
    bounded.write_text(json.dumps({**sweep, "most_memory": "1MiB"}), encoding="utf-8")
    cache = ("--cache", folder / "sweep_cache")
    for file, options, detail in (
            (plain, ("--max-memory", "1MiB"), MEMORY),
            (plain, ("--max-wall", "1ms", "--again"), "stopped: ran longer than 1ms (--max-wall)"),
            (bounded, (), MEMORY.replace("--max-memory", "most_memory"))):
        done = run("sweep", file, *options, *cache, "--out", folder, status=STOPPED)
        assert "2 points failed or were stopped" in done.stderr, done.stderr
        rows = rows_of(folder / file.stem)
        assert [(row["status"], row["detail"]) for row in rows] == [("stopped", detail)] * 2, rows
        assert not rows[0].get("throughput [token/s]"), rows
    # Kept by --resume; the option goes before the file's key; nothing of it is in the cache.
    run("sweep", bounded, "--resume", "--max-memory", "100GB", *cache, "--out", folder,
        status=STOPPED)
    done = run("sweep", bounded, "--retry-failed", "--max-memory", "100GB", *cache, "--out",
               folder, "--json")
    assert json.loads(done.stdout)["ran"] == 2, done.stdout
    assert json.loads(done.stdout)["statuses"] == {"ok": 2}, done.stdout


def check_sensitivity(folder):
    spec = {"title": "t", "systems": {"a": {"extends": DENSE}},
            "value": {"metric": "throughput", "of": "a"},
            "parameters": [{"path": "/csd/0/controller/command_cost"}],
            "method": {"kind": "tornado"}}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    done = run("sensitivity", folder / "spec.json", "--max-memory", "1MiB", "--out",
               folder / "sensitivity", status=2)
    assert MEMORY in done.stderr, done.stderr


def main():
    checks = [check_run, check_samples_and_timeline, check_figure, check_validate, check_sweep,
              check_sensitivity]
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    print(f"{len(checks)} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
