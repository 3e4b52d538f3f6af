"""Drives `nearkv fit`: it finds the constants that a suite was made with, and says so honestly.

A tiny suite is made by the simulator itself with known constants. Needs NEARKV_BINARY and
NEARKV_SOURCE. What a wrong spec prints is bad_configs_check.py's.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
POINT = "nearkv:design_points/insti_dense_opt13b_a6000.json"
BUS, SUBMIT = "/csd/0/flash/read_command/bus", "/csd/0/nvme/host_submit"
TRUTH = {BUS: 700, SUBMIT: 9000}  # ns
BATCHES = {4: "fit", 8: "test", 16: "fit"}
ROWS = {"throughput": ("throughput", "token/s"),
        "submission": ('"decode/phase/submission"', "s")}
OK, NOT_CONVERGED, USER_ERROR = 0, 1, 2


def nearkv(folder, *arguments, status=OK):
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr


def run_of(batch):
    return {"/workload/batch": batch, "/workload/output_tokens": 16}


def make_suite(folder):
    """References from runs with the true constants."""
    claims = []
    for batch, role in BATCHES.items():
        values = [f"{path}={value}ns" for path, value in TRUTH.items()]
        values += [f"{path}={value}" for path, value in run_of(batch).items()]
        sets = [part for value in values for part in ("--set", value)]
        record = json.loads(nearkv(folder, "run", POINT, *sets, "--json", "--out", "truth")[0])
        metrics = {metric["name"]: metric["value"] for metric in record["metrics"]}
        for name, (metric, unit) in ROWS.items():
            claims.append({"id": f"{name}_{batch}", "text": f"{name} at batch {batch}",
                           "role": role, "source": "made by the simulator", "unit": unit,
                           "expression": f"batch_{batch}.{metric}",
                           "value": metrics[metric.strip('"')]})
    runs = {f"batch_{batch}": {"point": {"extends": POINT}, "set": run_of(batch)}
            for batch in BATCHES}
    suite = {"name": "made", "title": "made by the simulator", "source": "this check",
             "tolerance": 0.02, "runs": runs, "claims": claims}
    (folder / "suite.json").write_text(json.dumps(suite), encoding="utf-8")


def make_spec(folder, name="spec", **changes):
    spec = {"name": name, "suites": ["suite.json"], "method": "levenberg_marquardt", "step": 0.05,
            "most_iterations": 30, "part": "csd/0",
            "constants": [{"path": BUS, "lowest": "100ns", "highest": "5us"},
                          {"path": SUBMIT, "lowest": "1us", "highest": "50us"}],
            "output": f"{name}/fitted.json", **changes}
    file = folder / f"{name}.json"
    file.write_text(json.dumps(spec), encoding="utf-8")
    return file.name


def nanoseconds(text):
    number = text.rstrip("nus")
    return float(number) * {"ns": 1, "us": 1000}[text[len(number):]]


def constants_of(file):
    config = json.loads(file.read_text(encoding="utf-8"))
    return {BUS: config["flash"]["read_command"]["bus"], SUBMIT: config["nvme"]["host_submit"]}


def check_truth_is_found(folder):
    for method, iterations in (("levenberg_marquardt", 30), ("nelder_mead", 300)):
        spec = make_spec(folder, method, method=method, most_iterations=iterations)
        text, _ = nearkv(folder, "fit", spec, "--cache", "cache")
        assert "converged after" in text and "not identified" not in text, text
        assert "test rows, which the fit did not see: median error 0.0 %" in text, text
        for path, constant in constants_of(folder / method / "fitted.json").items():
            low, high = map(nanoseconds, constant["interval"])
            assert low < TRUTH[path] < high, (path, constant)
            value = nanoseconds(constant["value"])
            assert abs(value / TRUTH[path] - 1) < 0.01, (path, value)
            assert constant["source"] == "fit"
            for row in ("throughput_4", "submission_4", "throughput_16", "submission_16"):
                assert row in constant["citation"], constant
            assert "_8" not in constant["citation"], "a test row entered the fit"


def check_output_can_be_extended(folder):
    point = {"extends": POINT, "name": "calibrated",
             "csd": [{"extends": ["nearkv:platforms/csds/instinfer_emulated.json",
                                  "levenberg_marquardt/fitted.json"]}]}
    (folder / "calibrated.json").write_text(json.dumps(point), encoding="utf-8")
    record = json.loads(nearkv(folder, "run", "calibrated.json", "--json", "--set",
                               "workload/batch=4")[0])
    fitted = {use["path"]: use["value"] for use in record["constants"]["fit"]}
    assert nanoseconds(fitted[SUBMIT]) == 9000, fitted


def check_equal_bytes(folder):
    for jobs in (1, 3):
        spec = make_spec(folder, "same", output=f"jobs_{jobs}/fitted.json")
        nearkv(folder, "fit", spec, "--no-cache", "--jobs", jobs)
    one, three = ((folder / f"jobs_{jobs}" / "fitted.json").read_bytes() for jobs in (1, 3))
    assert one == three, "the fit depends on the number of jobs"


def check_dry_run(folder):
    text, _ = nearkv(folder, "fit", make_spec(folder, "dry"), "--dry-run")
    assert "2 constants, 4 rows, 2 points" in text and BUS in text and "submission_16" in text
    assert not (folder / "dry").exists()


def check_no_convergence_writes_nothing(folder):
    spec = make_spec(folder, "short", most_iterations=1)
    text, errors = nearkv(folder, "fit", spec, "--cache", "cache", status=NOT_CONVERGED)
    assert text == "" and errors.startswith("no convergence: stopped after 1 iterations"), errors
    assert SUBMIT in errors
    assert not (folder / "short").exists()
    # Rows that do not run with a constant that the fit tries end it, too.
    memory = "/gpu/0/memory_capacity"
    spec = make_spec(folder, "full", part="gpu/0", method="nelder_mead",
                     constants=[{"path": memory, "lowest": "1MiB", "highest": "48GiB"}])
    text, errors = nearkv(folder, "fit", spec, "--cache", "cache", status=NOT_CONVERGED)
    assert text == "" and memory + " = " in errors and "infeasible" in errors, errors
    assert not (folder / "full").exists()


def check_what_the_rows_do_not_tell(folder):
    spec = make_spec(folder, "blind", part="gpu/0", constants=[
        {"path": "/gpu/0/reserved_memory", "lowest": "100MiB", "highest": "1GiB"}])
    text, _ = nearkv(folder, "fit", spec, "--cache", "cache")
    assert "not identified" in text, text
    assert "the rows do not tell: /gpu/0/reserved_memory" in text, text
    report = json.loads(nearkv(folder, "fit", spec, "--cache", "cache", "--json")[0])
    assert [constant["is_identified"] for constant in report["constants"]] == [False]
    assert len(report["open"]) == 1 and report["converged"], report


def check_test_row_is_refused(folder):
    spec = make_spec(folder, "cheating", rows=["throughput_4", "submission_8"])
    text, errors = nearkv(folder, "fit", spec, status=USER_ERROR)
    assert text == "" and "/rows/1" in errors and "never enters a fit" in errors, errors
    assert not (folder / "cheating").exists()


def main():
    with tempfile.TemporaryDirectory() as folder:
        make_suite(Path(folder))
        for check in (check_truth_is_found, check_output_can_be_extended, check_equal_bytes,
                      check_dry_run, check_no_convergence_writes_nothing,
                      check_what_the_rows_do_not_tell, check_test_row_is_refused):
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
