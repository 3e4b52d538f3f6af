"""Fuzzes every reader of foreign input: its seeds, and some seconds more; compares records.

Usage: fuzz_check.py [SECONDS [TARGET...]]   (a target; 1800 for a long night)
Builds preset fuzz (clang++ with sanitizers). Inputs that it finds on the way are kept in
build/fuzz/corpus; one that ends a target is in build/fuzz/crashes. Records of that build are equal
to those of NEARKV_BINARY, byte for byte. Skipped where there is no clang++. Needs NEARKV_SOURCE,
NEARKV_BINARY and NEARKV_HOME.
"""

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from same_bytes import compare

SOURCE = Path(os.environ["NEARKV_SOURCE"])
BUILD = SOURCE / "build/fuzz"
SEEDS = SOURCE / "validation/fuzz/corpus"
SKIPPED = 77
# Of one input: seconds, MiB.
SLOWEST = 10
LARGEST = 2048
POINTS = 20


def build():
    for command in (["cmake", "--preset", "fuzz"],
                    ["cmake", "--build", "build/fuzz", "--target", "nearkv_fuzz", "nearkv"]):
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def fuzz(target, seconds):
    """(the target, its last lines, whether all went well)."""
    found = BUILD / "corpus" / target
    crashes = BUILD / "crashes" / target
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NEARKV_FUZZ_TARGET": target, "NEARKV_HOME": str(SOURCE),
                   "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    done = subprocess.run(
        [str(BUILD / "nearkv_fuzz"), f"-max_total_time={seconds}", f"-timeout={SLOWEST}",
         f"-rss_limit_mb={LARGEST}", f"-artifact_prefix={crashes}/", "-max_len=20000",
         "-print_final_stats=1", str(found), str(SEEDS / target)],
        capture_output=True, text=True, errors="replace", check=False, env=environment)
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    said = f"{runs[1]} inputs" if runs else "no inputs"
    if done.returncode != 0:
        said += "\n" + done.stderr[-3000:]
    return target, said, done.returncode == 0


def main():
    if not shutil.which("clang++"):
        print("skipped: clang++ is missing (Debian package clang)")
        return SKIPPED
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    targets = sys.argv[2:] or sorted(path.name for path in SEEDS.iterdir())
    build()
    all_fine = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for target, said, fine in pool.map(lambda target: fuzz(target, seconds), targets):
            print(f"{target}: {said}", flush=True)
            all_fine = all_fine and fine
    assert all_fine
    # The same build runs points too: another compiler, little optimised, with the sanitizers.
    os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=0")
    ran, problems = compare([os.environ["NEARKV_BINARY"], str(BUILD / "nearkv")], POINTS, seed=1)
    print(f"{ran} points: {len(problems)} records differ from those of the optimised build")
    assert not problems, problems
    return 0


if __name__ == "__main__":
    sys.exit(main())
