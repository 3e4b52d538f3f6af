"""Random design points run to their end, or are refused with a message; nothing else.

Usage: random_points_check.py [POINTS [SEED]]
Draws until POINTS have run to their end: some 20 a second and core.
Needs NEARKV_BINARY and NEARKV_HOME.
"""

import collections
import concurrent.futures
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from random_points import RandomPoints

NEARKV = os.environ["NEARKV_BINARY"]
CONFIGS = Path(os.environ["NEARKV_HOME"]) / "configs"
MOST_SECONDS = 60
MOST_BYTES = 4 << 30
REFUSED = 2


@functools.cache
def limit_command():
    """Sanitizers take terabytes of address space, of which they use little."""
    version = subprocess.run([NEARKV, "version"], capture_output=True, text=True, check=True)
    return [] if "sanitizers" in version.stdout else ["prlimit", f"--as={MOST_BYTES}"]


def resolved(file, folder):
    """A shipped point as its record has it."""
    done = subprocess.run(
        [NEARKV, "run", str(file), "--json", "--out", str(folder), "--set", "workload/batch=1",
         "--set", "workload/prompt_tokens=16", "--set", "workload/output_tokens=2"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, (file, done.stderr)
    return json.loads(done.stdout)["config"]


def shipped_points(folder):
    return [resolved(file, folder) for file in sorted((CONFIGS / "design_points").glob("*.json"))]


def run_point(point, name, folder):
    """(how it ended, its record or what it said)."""
    file = folder / f"point_{name}.json"
    file.write_text(json.dumps(point), encoding="utf-8")
    command = [*limit_command(), NEARKV, "run", str(file), "--json", "--out", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return "too slow", str(file)
    if done.returncode == 0:
        file.unlink()
        return json.loads(done.stdout)["status"], done.stdout
    if done.returncode == REFUSED and done.stderr.strip():
        file.unlink()
        return "refused", done.stderr.splitlines()[0]
    return "failed", f"{file}: status {done.returncode}: {done.stderr.strip()[-600:]}"


def main():
    count, seed = (int(word) for word in (sys.argv[1:] + ["60", "1"][len(sys.argv) - 1:]))
    folder = Path(tempfile.mkdtemp(prefix="nearkv_random_points_"))
    schema = json.loads((CONFIGS / "schema/design_point.schema.json").read_text(encoding="utf-8"))
    models = [json.loads(file.read_text(encoding="utf-8"))
              for file in sorted((CONFIGS / "models").glob("*.json"))]
    points = RandomPoints(schema, shipped_points(folder), models, seed)
    outcomes = collections.Counter()
    problems = []
    reasons = collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while outcomes["ok"] < count:
            first = outcomes.total()
            drawn = [(points.draw(), first + i) for i in range(count - outcomes["ok"])]
            for outcome, said in pool.map(lambda job: run_point(*job, folder), drawn):
                outcomes[outcome] += 1
                if outcome in ("failed", "too slow"):
                    problems.append(f"{outcome}: {said}")
                elif outcome == "refused":
                    reasons[said] += 1
            assert outcomes["ok"] > 0.2 * outcomes.total(), "hardly any point runs"
    print(f"{outcomes.total()} random points, seed {seed}: "
          + ", ".join(f"{number} {what}" for what, number in outcomes.most_common()))
    print(*(f"  {number} refused: {what}" for what, number in reasons.most_common(5)), sep="\n")
    for problem in problems[:20]:
        print(problem)
    assert not problems, f"{len(problems)} points failed; they are in {folder}"
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
