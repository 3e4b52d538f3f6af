"""The gate: `nearkv validate` over all suites.

Fails when a test row that passed before fails or is gone (validation/passing.json), when a row
fails without a reason, when a reason is not needed any more, when REPORT.md is not what the
program writes, or when rows in JSON are not as README says.

Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import difflib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FIELDS = {"suite", "id", "role", "reference", "simulated", "unit", "error", "tolerance", "pass",
          "note"}


def validate(work, cache, *arguments):
    command = [os.environ["NEARKV_BINARY"], "validate", "--cache", str(cache), *arguments]
    return subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)


def problems_of_report(source, report):
    committed = source / "validation" / "REPORT.md"
    before = committed.read_text(encoding="utf-8").splitlines() if committed.exists() else []
    changes = list(difflib.unified_diff(before, report.read_text(encoding="utf-8").splitlines(),
                                        "validation/REPORT.md", "now", lineterm="", n=0))
    if changes:
        changes.append("run nearkv validate, look at the differences, and commit REPORT.md")
    return changes


def problems_of_rows(text):
    rows = json.loads(text)
    problems = [f"a row with other fields: {row}" for row in rows if set(row) != FIELDS]
    names = [(row["suite"], row["id"]) for row in rows]
    problems += [f"two rows of one name: {name}" for name in set(names) if names.count(name) > 1]
    for suite in sorted({suite for suite, _ in names}):
        if not any(row["role"] == "test" for row in rows if row["suite"] == suite):
            problems.append(f"{suite} has no test row")
    return problems


def check(work):
    source = Path(os.environ["NEARKV_SOURCE"]).resolve()
    report = work / "REPORT.md"
    cache = work / "cache"
    first = validate(work, cache, "--report", str(report))
    print(first.stdout.split("\n\n")[0])
    problems = [line for line in first.stderr.splitlines() if not line.startswith("validate: ")]
    if first.returncode != 0 and not problems:
        problems.append(f"nearkv validate ended with status {first.returncode}")
    problems += [line for line in first.stdout.splitlines() if line.startswith("warning: ")]
    if not report.exists():
        return [*problems, "no report was written"]
    problems += problems_of_report(source, report)
    second = validate(work, cache, "--json", "--report", str(work / "again" / "REPORT.md"))
    if "validate: " in second.stderr:
        problems.append("points ran again that are in the cache")
    if (work / "again" / "REPORT.md").read_bytes() != report.read_bytes():
        problems.append("two reports of equal results differ")
    return problems + problems_of_rows(second.stdout)


def main():
    with tempfile.TemporaryDirectory() as folder:
        problems = check(Path(folder))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
