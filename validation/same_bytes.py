"""Whether two builds of nearkv write the same records.

Usage: same_bytes.py BINARY ANOTHER [POINTS [SEED]]   (random points besides the shipped ones)
Needs NEARKV_HOME and, for the module it shares with random_points_check.py, NEARKV_BINARY.
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from random_points import RandomPoints
from random_points_check import CONFIGS, shipped_points


def record(binary, file, folder):
    done = subprocess.run([binary, "run", str(file), "--json", "--out", str(folder)],
                          capture_output=True, text=True, check=False)
    return (json.loads(done.stdout) if done.returncode == 0 else
            {"status": done.returncode, "said": done.stderr})


def first_difference(a, b, path=""):
    if type(a) is not type(b):
        return path
    if isinstance(a, dict):
        for key in sorted(a.keys() | b.keys()):
            if a.get(key) != b.get(key):
                return first_difference(a.get(key), b.get(key), f"{path}/{key}")
    if isinstance(a, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b)):
            if one != other:
                return first_difference(one, other, f"{path}/{i}")
    return f"{path}: {a} against {b}"


def compare(binaries, count, seed):
    """(points that ran, a line for each that differs)."""
    schema = json.loads((CONFIGS / "schema/design_point.schema.json").read_text(encoding="utf-8"))
    models = [json.loads(file.read_text(encoding="utf-8"))
              for file in sorted((CONFIGS / "models").glob("*.json"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shipped = shipped_points(folder)
        drawn = RandomPoints(schema, shipped, models, seed)
        points = shipped + [drawn.draw() for _ in range(count)]

        def difference(number):
            file = folder / f"{number}.json"
            file.write_text(json.dumps(points[number]), encoding="utf-8")
            a, b = (record(binary, file, folder) for binary in binaries)
            ran = a["status"] == "ok"
            return ran, "" if a == b else f"point {number}: {first_difference(a, b)}"

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(difference, range(len(points))))
    return sum(ran for ran, _ in results), [text for _, text in results if text]


def main():
    count, seed = (int(word) for word in (sys.argv[3:] + ["50", "1"][len(sys.argv) - 3:]))
    ran, problems = compare(sys.argv[1:3], count, seed)
    print(f"{ran} points ran: {len(problems)} records differ")
    print(*problems[:20], sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
