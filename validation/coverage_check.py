"""At least 90 % of the lines of sim/ and models/ run in the tests.

Usage: coverage_check.py [--report] [CTEST ARGUMENT...]

Builds preset coverage (g++, gcov), runs its tests but for those that look at sources or build
something themselves, and prints the share of lines that ran by folder and the ten worst files.
--report leaves out the tests and shows what ran last time. Lines of tests, benchmarks and what
they share are not counted. A child that is killed has not written what it ran. Not one of the
tests, as it takes long. Needs NEARKV_SOURCE, or lies in the tree.
"""

import collections
import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(os.environ.get("NEARKV_SOURCE", Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(SOURCE / "validation/tidy"))

import tidy_check  # noqa: E402

BUILD = SOURCE / "build/coverage"
FOLDERS = ("sim/", "models/")
LEAST = 0.9
WORST = 10
TARGETS = ("nearkv", "nearkv_tests", "nearkv_kernels_shared")
LEFT_OUT = ("tidy", "tidy_selftest", "format", "clang_tidy", "fuzz_check", "slurm_check")
AT_A_TIME = 8  # files that one gcov reads


def build():
    for command in (["cmake", "--preset", "coverage"],
                    ["cmake", "--build", "build/coverage", "--target", *TARGETS]):
        done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def run_tests(arguments):
    """What ctest says in the end; a test that fails here, such as one that is too slow, counts."""
    for counters in BUILD.rglob("*.gcda"):
        counters.unlink()
    done = subprocess.run(
        ["ctest", "--test-dir", str(BUILD), "--parallel", str(os.cpu_count()),
         "--exclude-regex", f"^({'|'.join(LEFT_OUT)})$", *arguments],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    (BUILD / "coverage_tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return "\n".join(line for line in done.stdout.split("\n")
                     if "tests passed" in line or "(Failed)" in line or "(Timeout)" in line)


def is_counted(path):
    file = SOURCE / path
    return (path.startswith(FOLDERS) and "fixture" not in file.name and file.is_file()
            and not tidy_check.SourceFile(SOURCE, file).is_test)


def lines_of(notes):
    """{file: {line: whether it ran}} of some objects, by gcov."""
    done = subprocess.run(
        ["gcov", "--json-format", "--stdout", "--relative-only", "--source-prefix", str(SOURCE),
         *map(str, notes)], cwd=BUILD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = collections.defaultdict(dict)
    for text in done.stdout.splitlines():
        told = json.loads(text)
        for file in told["files"]:
            # ccache may have made the path relative.
            path = os.path.normpath(os.path.join(told["current_working_directory"], file["file"]))
            lines = found[os.path.relpath(path, SOURCE)]
            for line in file["lines"]:
                number = line["line_number"]
                lines[number] = lines.get(number, False) or line["count"] > 0
    return found


def all_lines():
    """The same of the whole build: a line of a header ran if it did in any object."""
    notes = sorted(BUILD.glob("CMakeFiles/nearkv*.dir/**/*.gcno"))
    assert any(BUILD.rglob("*.gcda")), f"no program of {BUILD} has run"
    parts = [notes[i:i + AT_A_TIME] for i in range(0, len(notes), AT_A_TIME)]
    found = collections.defaultdict(dict)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in pool.map(lines_of, parts):
            for path, lines in part.items():
                for number, ran in lines.items():
                    found[path][number] = found[path].get(number, False) or ran
    return {path: lines for path, lines in sorted(found.items()) if is_counted(path)}


def share_text(name, lines, ran):
    return f"{name:44} {lines:6} {lines - ran:8} {ran / lines:7.1%}"


def report(lines):
    """Prints the tables; the share of all lines that ran."""
    folders = collections.defaultdict(lambda: [0, 0])
    files = []
    for path, by_line in lines.items():
        ran = sum(by_line.values())
        files.append((ran / len(by_line), path, len(by_line), ran))
        for name in (path.rsplit("/", 1)[0], path.split("/")[0] + " (all)", "total"):
            folders[name][0] += len(by_line)
            folders[name][1] += ran
    print(f"{'folder':44} {'lines':>6} {'not run':>8} {'share':>7}")
    for name, counts in sorted(folders.items()):
        print(share_text(name, *counts))
    print(f"\nthe {WORST} worst files")
    for _, path, count, ran in sorted(files)[:WORST]:
        print(share_text(path, count, ran))
    count, ran = folders["total"]
    return ran / count


def main():
    arguments = sys.argv[1:]
    if "--report" not in arguments:
        build()
        print(run_tests(arguments))
    share = report(all_lines())
    assert share >= LEAST, f"only {share:.1%} of the lines run"


if __name__ == "__main__":
    sys.exit(main())
