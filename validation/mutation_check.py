"""Of random single-operator mutations of the models, at least 90 of 100 are caught by the tests.

Usage: mutation_check.py [MUTATIONS [SEED]] [--no-headers] [--near] [--again] [--list] [--work DIR]

Without arguments, as the tests run it, it builds nothing: it checks how mutations are drawn
(mutations.py). With a number, each is applied alone to a copy of the tree in DIR (else in
build/mutation), what depends on it is built, and tests run until one fails: the cases beside the
file, of its folder, of models/, all others, then the Python checks of less than QUICK_SECONDS.
Caught is a mutation when a test fails or crashes twice or takes FACTOR times as long as without it.
One that does not compile without a warning does not count and is drawn anew, and so is one that
mutation_survivors.txt lists as changing nothing, with the reason. Results are kept after each: a
second call goes on where the first one ended, --again tries the survivors once more (after tests
were added), --list prints what is known. --no-headers leaves out headers, which take minutes to
build, and --near the tests outside of models/, which take minutes where a mutation survives.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from mutations import drawn_mutations, mutated_files

SOURCE = Path(os.environ.get("NEARKV_SOURCE", Path(__file__).resolve().parents[1]))
KNOWN_EQUIVALENT = SOURCE / "validation/mutation_survivors.txt"
MOST_SURVIVORS = 0.1
FACTOR = 5
LEAST_LIMIT = 15  # seconds
QUICK_SECONDS = 60
BUILD_SECONDS = 3600
MOST_BYTES = 8 << 30  # of memory, of a file
LIMITED = ("prlimit", f"--as={MOST_BYTES}", f"--fsize={MOST_BYTES}", "--core=0")
TARGETS = ("nearkv_tests", "nearkv", "nearkv_kernels_shared")
# They look at the sources, build something of their own, or need a cluster.
NO_BEHAVIOUR = ("tidy", "tidy_selftest", "format", "clang_tidy", "fuzz_check", "slurm_check",
                "mutation_check")
NO_INPUT = ("README.md", "mutation_check.py", "mutations.py", "mutation_survivors.txt")
NOT_COPIED = {"build", "results", ".git", "__pycache__"}

Test = collections.namedtuple("Test", "name file command environment limit seconds")


# -- The copy and its build ---------------------------------------------------------------------


def copy_tree(source, target):
    """Makes the copy equal; a file that is equal already keeps its time, so is not built again."""
    wanted = set()
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if name not in NOT_COPIED]
        for name in files:
            original = Path(folder) / name
            path = original.relative_to(source)
            wanted.add(path)
            copy = target / path
            content = original.read_bytes()
            if not copy.is_file() or copy.read_bytes() != content:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
                shutil.copymode(original, copy)
    for copy in list(target.rglob("*")):
        inside = copy.relative_to(target)
        if copy.is_file() and inside not in wanted and not NOT_COPIED & set(inside.parts):
            copy.unlink()


class Workshop:
    """A copy of the tree, its build folder, and the tests of that build."""

    def __init__(self, folder):
        self.folder = folder
        self.source = folder / "source"
        # As deep as preset release is, so that a compiler cache has what that one has built.
        self.build = self.source / "build/release"
        self.source.mkdir(parents=True, exist_ok=True)
        copy_tree(SOURCE, self.source)

    def make(self, *targets):
        """Whether it builds; what it said."""
        command = ["timeout", str(BUILD_SECONDS), "cmake", "--build", str(self.build), "--target",
                   *targets]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    def configure(self):
        # ccache, if it is there, makes the first build and the way back quick.
        done = subprocess.run(["cmake", "--preset", "release", "-DNEARKV_TESTS=ON"],
                              cwd=self.source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        built, said = self.make(*TARGETS)
        assert built, said[-4000:]

    def listed_tests(self):
        """Every test that ctest knows, and the file of each doctest case."""
        program = self.build / "nearkv_tests"
        listing = subprocess.run([program, "--list-test-cases", "--reporters=xml"], check=True,
                                 capture_output=True).stdout
        # Relative to the build folder where ccache made it so.
        files = {case.get("name"): os.path.relpath(self.build / case.get("filename"), self.source)
                 for case in ElementTree.fromstring(listing).iter("TestCase")}
        shown = subprocess.run(["ctest", "--test-dir", str(self.build), "--show-only=json-v1"],
                               check=True, capture_output=True).stdout
        for test in json.loads(shown)["tests"]:
            properties = {entry["name"]: entry["value"] for entry in test["properties"]}
            environment = dict(entry.split("=", 1) for entry in properties.get("ENVIRONMENT", ()))
            if test["name"] not in NO_BEHAVIOUR:
                yield Test(test["name"], files.get(test["name"], ""), test["command"], environment,
                           properties["TIMEOUT"], 0)


# -- Running tests ------------------------------------------------------------------------------


class Runner:
    """Runs tests, several at a time, in a folder for temporary files that is emptied."""

    def __init__(self, workshop):
        self.workshop = workshop
        self.scratch = workshop.folder / "scratch"
        self.lock = threading.Lock()
        self.running = set()
        self.caught = None  # (the test that failed, how)

    def run(self, test, limit):
        """How it ended: "passed", "failed", "crashed", "too long"."""
        environment = {**os.environ, **test.environment,
                       "TMPDIR": str(self.scratch), "XDG_CACHE_HOME": str(self.scratch / "cache")}
        child = subprocess.Popen([*LIMITED, *test.command], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 env=environment, cwd=self.workshop.build, start_new_session=True)
        with self.lock:
            self.running.add(child)
        try:
            status = child.wait(limit)
            return "passed" if status == 0 else "crashed" if status < 0 else "failed"
        except subprocess.TimeoutExpired:
            return "too long"
        finally:
            self.end(child)
            with self.lock:
                self.running.discard(child)

    @staticmethod
    def end(child):
        """Ends it and what it started and left behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def run_unless_caught(self, test):
        if self.caught is not None:
            return
        how = self.run(test, max(LEAST_LIMIT, FACTOR * test.seconds))
        if how in ("failed", "crashed") and self.caught is None:  # twice, or it was chance
            how = self.run(test, max(LEAST_LIMIT, FACTOR * test.seconds))
        with self.lock:
            if how != "passed" and self.caught is None:
                self.caught = (test.name, how)
                for child in self.running:
                    self.end(child)

    def first_failure(self, tests):
        """(name, how) of a test that does not pass, or None; they start in this order."""
        self.empty()
        self.caught = None
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.run_unless_caught, tests))
        return self.caught

    def timed(self, test):
        """The test with the time that it takes, or None if it does not pass here."""
        begin = time.monotonic()
        is_python = not test.file
        limit = min(test.limit, QUICK_SECONDS) if is_python else test.limit
        if self.run(test, limit) != "passed":
            return None
        return test._replace(seconds=round(time.monotonic() - begin, 3))

    def empty(self):
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)


def baseline(workshop, runner, is_near):
    """All tests that pass on the tree as it is, with their times; kept until the tree changes."""
    kept = workshop.folder / ("baseline_near.json" if is_near else "baseline.json")
    digest = digest_of(sorted(
        path for path in workshop.source.rglob("*")
        if path.is_file() and path.name not in NO_INPUT
        and not NOT_COPIED & set(path.relative_to(workshop.source).parts)))
    if kept.exists():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["digest"] == digest:
            return [Test(*entry) for entry in known["tests"]]
    runner.empty()
    tests = [test for test in workshop.listed_tests()
             if test.file.startswith("models/") or not is_near]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        timed = list(pool.map(runner.timed, tests))
    passing = [test for test in timed if test is not None]
    left_out = [test.name for test, result in zip(tests, timed) if result is None]
    print(f"{len(passing)} tests pass without a mutation; left out, as they fail, are skipped "
          f"or take over {QUICK_SECONDS} s: {', '.join(left_out) or 'none'}", flush=True)
    assert len(passing) > len(tests) * 0.9, "most tests fail on the tree as it is"
    write_json(kept, {"digest": digest, "tests": passing})
    return passing


def digest_of(files):
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest()
                                   for file in files)).hexdigest()


def in_order(tests, path):
    """Doctest cases, those that are likely to see a change of the file first, quick ones first."""
    folder = path.rsplit("/", 1)[0]
    beside = path.rsplit(".", 1)[0] + "_test.cpp"

    def distance(test):
        return (0 if test.file == beside else 1 if test.file.startswith(folder + "/") else
                2 if test.file.startswith("models/") else 3)

    return sorted((test for test in tests if test.file),
                  key=lambda test: (distance(test), test.seconds))


# -- One mutation -------------------------------------------------------------------------------


def outcome_of(mutation, workshop, runner, tests):
    """What the results keep of it."""
    file = workshop.source / mutation.path
    original = file.read_text(encoding="utf-8")
    begin = time.monotonic()
    result = {"key": mutation.key, "before": mutation.before.strip(),
              "after": mutation.after.strip(), "by": "", "how": ""}
    file.write_text(mutation.applied(original), encoding="utf-8")
    try:
        built, _ = workshop.make("nearkv_tests")
        result["build"] = round(time.monotonic() - begin, 1)
        if not built:
            return {**result, "outcome": "does not compile", "tests": 0}
        caught = runner.first_failure(in_order(tests, mutation.path))
        scripts = [test for test in tests if not test.file]
        if caught is None and scripts:
            assert workshop.make(*TARGETS)[0], "the tests build, and the program does not"
            caught = runner.first_failure(sorted(scripts, key=lambda test: test.seconds))
        if caught is not None:
            result["by"], result["how"] = caught
        spent = max(0, round(time.monotonic() - begin - result["build"], 1))
        return {**result, "outcome": "caught" if caught else "survived", "tests": spent}
    finally:
        file.write_text(original, encoding="utf-8")


def known_equivalents():
    """{(file, line before, line after)} of mutation_survivors.txt; each must fit the tree."""
    found = set()
    text = KNOWN_EQUIVALENT.read_text(encoding="utf-8")
    for block in "\n".join(line for line in text.split("\n")
                           if not line.startswith("#")).split("\n\n"):
        if not block.strip():
            continue
        path, before, after, *why = block.strip().split("\n")
        assert before.startswith("- ") and after.startswith("+ ") and why, f"malformed: {block}"
        assert why[0].startswith("why: ") and len(why[0]) > len("why: "), f"no reason: {block}"
        lines = [line.strip() for line in (SOURCE / path).read_text(encoding="utf-8").split("\n")]
        assert before[2:] in lines, f"{path} has no such line any more: {before[2:]}"
        found.add((path, before[2:], after[2:]))
    return found


def write_json(file, content):
    unfinished = file.with_suffix(".new")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(file)


class Results:
    """What is known of the mutations of one seed and one state of the models."""

    def __init__(self, folder, seed):
        files = [SOURCE / file.path for file in mutated_files(SOURCE)]
        self.file = folder / f"results_{seed}_{digest_of(files)[:12]}.json"
        self.by_key = (json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists()
                       else {})

    def keep(self, result):
        self.by_key[result["key"]] = result
        write_json(self.file, self.by_key)

    def forget_survivors(self):
        self.by_key = {key: result for key, result in self.by_key.items()
                       if result["outcome"] != "survived"}

    def try_until(self, count, mutations, attempt):
        """The results of the first mutations of which `count` count."""
        tried = []
        counted = 0
        for mutation in mutations:
            if counted == count:
                break
            if mutation.key not in self.by_key:
                result = attempt(mutation)
                if result is None:
                    break  # nothing more is known
                self.keep(result)
                print(f"{counted + 1}/{count} {result['outcome']} ({result['build']} s to build, "
                      f"{result['tests']} s of tests): {mutation.key} {result['by']}", flush=True)
            tried.append(self.by_key[mutation.key])
            counted += tried[-1]["outcome"] in ("caught", "survived")
        return tried


def print_results(tried):
    """The share that was caught."""
    by_outcome = collections.Counter(result["outcome"] for result in tried)
    survivors = [result for result in tried if result["outcome"] == "survived"]
    for result in survivors:
        print(f"{result['key']}\n- {result['before']}\n+ {result['after']}\n")
    caught = by_outcome["caught"]
    counted = caught + len(survivors)
    how = collections.Counter(result["how"] for result in tried if result["how"])
    in_checks = sum("check(" in result["before"] for result in survivors)
    print(f"{counted} mutations: {caught} caught ("
          + ", ".join(f"{number} {what}" for what, number in how.most_common())
          + f"), {len(survivors)} survived, {in_checks} of these in a check(); "
          f"{by_outcome['does not compile']} drawn anew as they do not compile")
    if counted:
        counting = [result for result in tried if result["outcome"] in ("caught", "survived")]
        print("median of one: "
              f"{statistics.median(result['build'] for result in counting):.0f} s to build, "
              f"{statistics.median(result['tests'] for result in counting):.0f} s of tests; "
              f"all: {sum(one['build'] + one['tests'] for one in tried) / 60:.0f} min")
    return caught / counted if counted else 1


def check_drawing():
    """The same seed draws the same; each changes one line, in code, to something else."""
    drawn = drawn_mutations(SOURCE, seed=1)
    assert drawn == drawn_mutations(SOURCE, seed=1)
    assert drawn != drawn_mutations(SOURCE, seed=2)
    assert len({mutation.key for mutation in drawn}) == len(drawn), "one place twice"
    for mutation in drawn:
        assert mutation.before[mutation.column:].startswith(mutation.old), mutation
        assert mutation.after != mutation.before, mutation
        assert "//" not in mutation.before[:mutation.column], f"in a comment: {mutation}"
        assert mutation.before[:mutation.column].count('"') % 2 == 0, f"in a text: {mutation}"
    kinds = {mutation.old for mutation in drawn[:len(drawn) // 2]}
    assert {"+", "-", "*", "/", "<", "==", "&&", "||", "+=", "min", "max", "!", "0"} <= kinds, kinds
    print(f"{len(drawn)} places of {len({mutation.path for mutation in drawn})} files can be "
          f"mutated; {len(known_equivalents())} mutations are known to change nothing")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("mutations", type=int, nargs="?")
    parser.add_argument("seed", type=int, nargs="?", default=1)
    parser.add_argument("--work", type=Path, default=SOURCE / "build/mutation")
    for flag in ("--no-headers", "--near", "--again", "--list"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    check_drawing()
    if options.mutations is None:
        return
    equivalent = known_equivalents()
    mutations = [mutation for mutation in drawn_mutations(SOURCE, options.seed)
                 if (mutation.path, mutation.before.strip(), mutation.after.strip())
                 not in equivalent
                 and not (options.no_headers and mutation.path.endswith(".hpp"))]
    options.work.mkdir(parents=True, exist_ok=True)
    results = Results(options.work, options.seed)
    if options.list:
        print_results(results.try_until(options.mutations, mutations, lambda _: None))
        return
    if options.again:
        results.forget_survivors()
    workshop = Workshop(options.work)
    workshop.configure()
    runner = Runner(workshop)
    tests = baseline(workshop, runner, options.near)
    share = print_results(results.try_until(
        options.mutations, mutations,
        lambda mutation: outcome_of(mutation, workshop, runner, tests)))
    assert share >= 1 - MOST_SURVIVORS, f"only {share:.0%} were caught"


if __name__ == "__main__":
    sys.exit(main())
