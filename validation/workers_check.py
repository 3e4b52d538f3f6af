"""A sweep's results do not depend on how many workers run it: tables and stores are equal.

Usage: workers_check.py [WORKERS...]     (else 1 2 8)

Points that run, points that do not fit and points that are refused, of systems with and without
drives. Compared are points.csv, byte for byte, and every row of the store: key, status, detail,
names and bytes of the numbers. Rows of the store may lie in another order. Needs NEARKV_BINARY.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

NEARKV = os.environ["NEARKV_BINARY"]
SMALL = {"prompt_tokens": 96, "output_tokens": 12}
SWEEPS = {
    "drives": {
        "title": "a test",
        "point": {"extends": "nearkv:design_points/insti_sparf_opt13b_a6000.json",
                  "model": {"layers": 3}, "workload": SMALL},
        "axes": [{"path": "/csd/0/count", "values": [1, 2, 3]},
                 {"path": "/workload/batch", "values": [1, 0, 2, 5, 8, 13]}],
    },
    "memory": {
        "title": "a test",
        "point": {"extends": "nearkv:design_points/deepspeed_opt13b_a6000.json",
                  "model": {"layers": 2}, "workload": {**SMALL, "prompt_tokens": 512}},
        "axes": [{"path": "/workload/batch", "values": [1, 2, 5, 16, 2048, 65536]},
                 {"path": "/host/dram", "values": ["32GiB", "96GiB"]}],
    },
}
STORE = """SELECT point.number, key, status, detail, names, numbers
           FROM point JOIN result USING (key) JOIN metric_list ON id = metric_list
           ORDER BY point.number"""


def results(folder, name, workers):
    """(the table, the store's rows) of a sweep with so many workers."""
    out = folder / f"{name}_{workers}"
    done = subprocess.run(
        [NEARKV, "sweep", str(folder / f"{name}.json"), "--out", str(out), "--jobs", str(workers),
         "--cache", ""], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    store = sqlite3.connect(out / name / "journal.sqlite")
    rows = store.execute(STORE).fetchall()
    store.close()
    return (out / name / "points.csv").read_bytes(), rows


def main():
    counts = [int(word) for word in sys.argv[1:]] or [1, 2, 8]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sweep, content in SWEEPS.items():
            (folder / f"{sweep}.json").write_text(json.dumps(content), encoding="utf-8")
            table, rows = results(folder, sweep, counts[0])
            statuses = [row[2] for row in rows]
            for workers in counts[1:]:
                other_table, other_rows = results(folder, sweep, workers)
                assert other_table == table, f"{sweep}: the table differs with {workers} workers"
                assert other_rows == rows, f"{sweep}: the store differs with {workers} workers"
            print(f"{sweep}: {len(rows)} points ("
                  + ", ".join(f"{statuses.count(one)} {one}" for one in sorted(set(statuses)))
                  + f"), the same with {', '.join(map(str, counts))} workers")


if __name__ == "__main__":
    sys.exit(main())
