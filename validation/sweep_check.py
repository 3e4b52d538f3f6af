"""Sweeps as users run them: what is done is never done again, whatever ended the program.

Needs NEARKV_BINARY and NEARKV_HOME.
"""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEARKV = os.environ["NEARKV_BINARY"]
KILLS = 6

SWEEP = {
    "title": "a test",
    "point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json",
              "workload": {"prompt_tokens": 256, "output_tokens": 64}},
    "axes": [
        {"path": "/csd/0/flash/channels", "values": [4, 8, 16]},
        {"path": "/workload/batch", "range": {"from": 4, "to": 40, "step": 2}},
    ],
    "skip": ["channels == 16 and batch > 20"],
    "metrics": ["throughput", "energy/*"],
    "objectives": [{"name": "throughput", "expression": "throughput", "goal": "maximize"},
                   {"name": "price", "expression": "system_price / throughput",
                    "goal": "minimize"}],
}
POINTS = 3 * 19 - 10
WITHOUT_CACHE = ("--cache", "")


def run(*arguments, status=0):
    done = subprocess.run([NEARKV, *map(str, arguments)], capture_output=True, text=True,
                          check=False)
    assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
    return done


def write_sweep(folder, name="small", **changes):
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**SWEEP, **changes}), encoding="utf-8")
    return file


def table(folder, name="small"):
    return (folder / name / "points.csv").read_bytes()


def counts(done):
    return {key: json.loads(done.stdout)[key] for key in ("earlier", "shared", "ran")}


def check_whole_run(folder):
    """The table of an undisturbed run."""
    sweep = write_sweep(folder)
    done = run("sweep", sweep, "--out", folder / "whole", "--json", *WITHOUT_CACHE)
    assert counts(done) == {"earlier": 0, "shared": 0, "ran": POINTS}, done.stdout
    rows = list(csv.DictReader(table(folder / "whole").decode().splitlines()))
    assert len(rows) == POINTS
    assert [row["point"] for row in rows] == [str(i + 1) for i in range(POINTS)]
    assert {row["status"] for row in rows} == {"ok"}
    assert "utilization/gpu/0/compute" not in rows[0] and "energy/gpu [J]" in rows[0]
    slow, fast = float(rows[0]["throughput [token/s]"]), float(rows[19]["throughput [token/s]"])
    assert rows[19]["channels"] == "8" and fast > slow, (slow, fast)
    units = json.loads((folder / "whole/small/points.units.json").read_text(encoding="utf-8"))
    assert units["energy/gpu [J]"] == {"name": "energy/gpu", "unit": "J", "what": "metric"}
    run("sweep", sweep, "--out", folder / "one", "--jobs", 1, *WITHOUT_CACHE)
    assert table(folder / "one") == table(folder / "whole"), "the number of jobs changes the table"
    return table(folder / "whole")


def check_single_point(folder):
    """A point of the table is what `nearkv run` finds."""
    rows = list(csv.DictReader(table(folder / "whole").decode().splitlines()))
    done = run("run", "nearkv:design_points/insti_dense_opt13b_a6000.json".replace(
        "nearkv:", os.environ["NEARKV_HOME"] + "/configs/"),
        "--set", "workload/prompt_tokens=256", "--set", "workload/output_tokens=64",
        "--set", f"workload/batch={rows[7]['batch']}",
        "--set", f"csd/0/flash/channels={rows[7]['channels']}",
        "--out", folder / "run", "--json")
    metrics = {m["name"]: m["value"] for m in json.loads(done.stdout)["metrics"]}
    assert float(rows[7]["throughput [token/s]"]) == metrics["throughput"]


def check_kills(folder, whole):
    """After kill -9 at any moment, --resume ends with the same table."""
    moments = random.Random(1)
    sweep = write_sweep(folder)
    out = folder / "killed"
    kept = 0
    for i in range(KILLS):
        child = subprocess.Popen([NEARKV, "sweep", str(sweep), "--out", str(out), "--resume",
                                  *WITHOUT_CACHE],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.05, 0.6))
        ending = signal.SIGINT if i % 3 == 2 else signal.SIGKILL
        child.send_signal(ending)
        child.wait()
    done = run("sweep", sweep, "--out", out, "--resume", "--json", *WITHOUT_CACHE)
    kept = counts(done)["earlier"]
    assert kept + counts(done)["ran"] == POINTS, done.stdout
    assert table(out) == whole, "the table after kills differs"
    done = run("sweep", sweep, "--out", out, "--resume", "--json", *WITHOUT_CACHE)
    assert counts(done) == {"earlier": POINTS, "shared": 0, "ran": 0}, done.stdout


def check_misspelt_metric(folder):
    """A metric that no point has is told, and the table has the others."""
    sweep = write_sweep(folder, "misspelt", metrics=["througput", "energies/*", "throughput"],
                        axes=[{"path": "/csd/0/flash/channels", "values": [8]}], skip=[])
    done = run("sweep", sweep, "--out", folder / "misspelt", *WITHOUT_CACHE)
    told = [line for line in done.stderr.splitlines() if line.startswith("metrics: ")]
    assert told == ['metrics: no point has "througput"; see nearkv describe metrics',
                    'metrics: no point has "energies/*"; see nearkv describe metrics'], done.stderr
    assert b"throughput [token/s]" in table(folder / "misspelt", "misspelt")


def check_shared_points(folder, whole):
    """Points that two sweeps have run once."""
    cache = folder / "cache"
    half = write_sweep(folder, "half", axes=[{"path": "/csd/0/flash/channels", "values": [8]},
                                             SWEEP["axes"][1]], skip=[])
    done = run("sweep", half, "--out", folder / "shared", "--json", "--cache", cache)
    assert counts(done)["ran"] == 19
    done = run("sweep", write_sweep(folder), "--out", folder / "shared", "--json", "--cache", cache)
    assert counts(done) == {"earlier": 0, "shared": 19, "ran": POINTS - 19}, done.stdout
    assert table(folder / "shared") == whole


def check_equal_points(folder):
    """Points of one sweep that are equal run once, and each has its row."""
    axes = [{"zip": [{"path": "/csd/0/flash/channels",
                      "range": {"from": 4, "to": 8, "shares": [0.01, 0.02, 0.9, 0.03, 0.91, 0.5]}},
                     {"path": "/workload/batch",
                      "range": {"from": 4, "to": 6, "shares": [0.1, 0.1, 0.9, 0.1, 0.9, 0.5]}}]}]
    sweep = write_sweep(folder, "equal", axes=axes, skip=[])
    done = run("sweep", sweep, "--out", folder / "equal", "--json", "--jobs", 3, *WITHOUT_CACHE)
    assert counts(done) == {"earlier": 0, "shared": 3, "ran": 3}, done.stdout
    rows = list(csv.DictReader(table(folder / "equal", "equal").decode().splitlines()))
    assert [row["point"] for row in rows] == [str(i + 1) for i in range(6)], rows
    assert [row["channels"] for row in rows] == ["4", "4", "8", "4", "8", "6"]
    assert rows[0]["throughput [token/s]"] == rows[3]["throughput [token/s]"]
    assert rows[2]["throughput [token/s]"] == rows[4]["throughput [token/s]"]


def check_shards(folder, whole):
    sweep = write_sweep(folder)
    for shard in ("1/3", "3/3"):
        run("sweep", sweep, "--out", folder / "shards", "--shard", shard, *WITHOUT_CACHE)
    done = run("merge", sweep, "--out", folder / "shards")
    assert f"{(POINTS + 1) // 3} points are missing" in done.stderr, done.stderr
    run("sweep", sweep, "--out", folder / "shards", "--shard", "2/3", *WITHOUT_CACHE)
    done = run("merge", sweep, "--out", folder / "shards")
    assert f"{POINTS} of {POINTS} points from 3 shards" in done.stdout, done.stdout
    assert table(folder / "shards") == whole


def check_failures(folder):
    """A point that is refused or takes too long is a row."""
    sweep = write_sweep(folder, "bad", axes=[{"path": "/workload/batch", "values": [4, 0, 8]}],
                        skip=[])
    run("sweep", sweep, "--out", folder / "bad", *WITHOUT_CACHE)
    rows = list(csv.DictReader(table(folder / "bad", "bad").decode().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "refused", "ok"], rows
    assert rows[1]["detail"] == "/workload/batch: 0 is out of range; must be 1 to 65536"
    slow = write_sweep(
        folder, "slow", axes=[{"path": "/simulation/fidelity", "values": ["sampled", "exact"]}],
        point={"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json",
               "workload": {"batch": 32}}, skip=[], most_seconds=5)
    done = run("sweep", slow, "--out", folder / "slow", *WITHOUT_CACHE, status=3)
    assert "1 points failed or were stopped" in done.stderr, done.stderr
    rows = list(csv.DictReader(table(folder / "slow", "slow").decode().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "stopped"], rows
    assert rows[1]["detail"] == "stopped: ran longer than 5 s (most_seconds)"


def check_refusals(folder):
    """What must not go on says why."""
    sweep = write_sweep(folder)
    done = run("sweep", sweep, "--out", folder / "whole", status=2)
    assert f"has results of {POINTS} of {POINTS} points" in done.stderr, done.stderr
    changed = write_sweep(folder, repeats=2, title="another")
    done = run("sweep", changed, "--out", folder / "whole", "--resume", status=2)
    assert "what changed: /repeats, /title;" in done.stderr, done.stderr
    write_sweep(folder)
    child = subprocess.Popen([NEARKV, "sweep", str(sweep), "--out", str(folder / "busy"),
                              *WITHOUT_CACHE], stderr=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL)
    while not (folder / "busy/small/journal.sqlite").exists():
        time.sleep(0.01)
    done = run("sweep", sweep, "--out", folder / "busy", "--resume", *WITHOUT_CACHE, status=2)
    child.kill()
    child.wait()
    assert f"another program writes there (process {child.pid})" in done.stderr, done.stderr


def check_full_disk(folder, whole):
    """A full disk ends a sweep with a clear message; with room it goes on where it was."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        print("a full disk was not tried: no file system can be mounted here")
        return
    try:
        sweep = write_sweep(folder)
        child = subprocess.Popen([NEARKV, "sweep", str(sweep), "--out", str(disk), *WITHOUT_CACHE],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        journal = disk / "small/journal.sqlite-wal"
        while not journal.exists() or journal.stat().st_size < 100_000:  # some results are there
            time.sleep(0.01)
        others = disk / "others"
        with contextlib.suppress(OSError), others.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        _, said = child.communicate()
        assert child.returncode == 2, (child.returncode, said)
        assert "journal.sqlite: the disk is full; results so far are kept" in said, said
        others.unlink()
        done = run("sweep", sweep, "--out", disk, "--resume", "--json", *WITHOUT_CACHE)
        assert 0 < counts(done)["earlier"] < POINTS, done.stdout
        assert table(disk) == whole, "the table differs after a full disk"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_status(folder):
    """How far a sweep is."""
    sweep = write_sweep(folder)
    done = run("sweep", sweep, "--out", folder / "whole", "--status")
    assert f"small: {POINTS} of {POINTS} points have a result: {POINTS} ok" in done.stdout, done
    out = folder / "shards_status"
    run("sweep", sweep, "--out", out, "--shard", "1/3", *WITHOUT_CACHE)
    run("merge", sweep, "--out", out)
    done = run("sweep", sweep, "--out", out, "--status", "--json", status=75)
    status = json.loads(done.stdout)
    assert status["done"] == (POINTS + 2) // 3 and status["points"] == POINTS, status


def check_plan_and_ranking(folder):
    sweep = write_sweep(folder)
    plan = json.loads(run("sweep", sweep, "--dry-run", "--json").stdout)
    assert plan["points"] == POINTS and plan["skipped"] == 10, plan
    assert plan["first"] == {"channels": 4.0, "batch": 4.0}, plan
    assert plan["last"] == {"channels": 16.0, "batch": 20.0}, plan
    assert plan["seconds"] > 0
    rows = list(csv.DictReader(table(folder / "whole").decode().splitlines()))
    best = max(rows, key=lambda row: float(row["throughput [token/s]"]))
    top = json.loads(run("top", sweep, "--out", folder / "whole", "--count", 3, "--json").stdout)
    assert len(top) == 3 and str(top[0]["point"]) == best["point"], (top, best)
    front = json.loads(run("pareto", sweep, "--out", folder / "whole", "--maximize", "throughput",
                           "--minimize", "channels", "--json").stdout)
    assert [point["axes"]["channels"] for point in front] == [16, 8, 4], front


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = check_whole_run(folder)
        check_single_point(folder)
        check_misspelt_metric(folder)
        check_kills(folder, whole)
        check_shared_points(folder, whole)
        check_equal_points(folder)
        check_shards(folder, whole)
        check_failures(folder)
        check_refusals(folder)
        check_full_disk(folder, whole)
        check_status(folder)
        check_plan_and_ranking(folder)
    print("sweeps: all as expected")


if __name__ == "__main__":
    sys.exit(main())
