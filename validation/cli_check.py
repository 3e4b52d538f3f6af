"""Drives the real program: exit statuses, files, equal bytes, interruption, missing packages.

Needs NEARKV_BINARY and NEARKV_SOURCE. What a wrong input prints is bad_configs_check.py's.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
POINTS = SOURCE / "configs" / "design_points"
DENSE = POINTS / "insti_dense_opt13b_a6000.json"
SPARF = POINTS / "insti_sparf_opt13b_a6000.json"
SCHEMA = SOURCE / "configs" / "schema" / "design_point.schema.json"

FIGURE = json.loads((SOURCE / "configs" / "figures" / "fig14.json").read_text(encoding="utf-8"))
QUICK_POINTS = len(FIGURE["series"]) * len(FIGURE["axis"]["quick"])

OK, USER_ERROR, INTERNAL_ERROR = 0, 2, 70


def environment(**more):
    return {**os.environ, "NEARKV_HOME": str(SOURCE), **more}


def nearkv(folder, *arguments, status=OK, **more):
    """Runs the program in a folder; returns (stdout, stderr)."""
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(**more), capture_output=True,
                          text=True, check=False)
    assert done.returncode == status, (
        f"{command}: status {done.returncode} instead of {status}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def contents(folder):
    """Bytes by relative path of all files but the wall times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(".wall.json")}


def assert_same(first, second):
    assert first.keys() == second.keys(), f"other files: {first.keys() ^ second.keys()}"
    for name, data in first.items():
        assert data == second[name], f"{name} differs"


def start(folder, *arguments):
    return subprocess.Popen([BINARY, *map(str, arguments)], cwd=folder, env=environment(),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for_children(process):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        children = children_of(process.pid)
        if children:
            return children
        time.sleep(0.005)
    raise AssertionError(f"no child was seen; status {process.poll()}")


# -- Checks -----------------------------------------------------------------------------------


def check_help_and_version(folder):
    version, _ = nearkv(folder, "--version")
    assert re.fullmatch(r"nearkv \d+\.\d+\.\d+\n", version), version
    assert nearkv(folder, "version")[0].startswith(version.strip())
    text, _ = nearkv(folder, "--help")
    for command in ("run", "figure", "describe", "schema", "version"):
        assert re.search(rf"^ +{command} ", text, re.MULTILINE), f"--help lacks {command}"
        assert "Usage: nearkv " + command in nearkv(folder, command, "--help")[0]
    nothing, usage = nearkv(folder, status=USER_ERROR)
    assert nothing == "" and "Usage" in usage
    assert contents(folder) == {}


def check_run_writes_a_record(folder):
    text, errors = nearkv(folder, "run", DENSE)
    assert errors == "", errors
    for part in ("token/s", "where the decode time went", "utilization", "memory high-water marks",
                 "assumed", "record: results/insti_dense_opt13b_a6000.record.json"):
        assert part in text, f"the summary lacks {part!r}:\n{text}"
    files = contents(folder)
    assert list(files) == ["results/insti_dense_opt13b_a6000.record.json"], list(files)
    wall = json.loads((folder / "results/insti_dense_opt13b_a6000.wall.json").read_text())
    assert wall["use"]["wall_seconds"] > 0

    printed, errors = nearkv(folder, "run", DENSE, "--json")
    assert errors == "", errors
    assert printed.encode() == next(iter(files.values())), "--json and the file differ"
    assert_same(files, contents(folder))
    record = json.loads(printed)
    for key in ("record_format", "program", "name", "status", "seed", "fidelity", "config_hash",
                "digest", "metrics", "notes", "constants", "config"):
        assert key in record, f"the record lacks {key}"
    assert "wall" not in printed
    return record


def check_models_of_the_hub(folder):
    config = {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
              "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192,
              "vocab_size": 128256, "max_position_embeddings": 131072,
              "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text, errors = nearkv(folder, "model", "tiny/config.json")
    assert errors == "", errors
    model = json.loads(text)
    assert (model["name"], model["ffn"], model["kv_heads"]) == ("tiny", 8192, 8), text
    summary, _ = nearkv(folder, "model", "tiny/config.json", "--out", "tiny/model.json")
    assert "1235814400" in summary, summary
    assert json.loads((folder / "tiny" / "model.json").read_text()) == model
    again, _ = nearkv(folder, "model", "tiny/model.json")
    assert json.loads(again) == model, again
    assert nearkv(folder, "model", "tiny/model.json", "--summary")[0] == summary

    for name in ("config.json", "model.json"):
        point = {"extends": "nearkv:design_points/flexgen_opt13b_a6000.json", "name": "hub",
                 "model": {"extends": f"tiny/{name}"}}
        (folder / "point.json").write_text(json.dumps(point), encoding="utf-8")
        nearkv(folder, "run", "point.json", "--set", "workload/batch=2",
               "--set", "workload/output_tokens=3", "--out", name.split(".", maxsplit=1)[0])
    records = [json.loads((folder / name / "hub.record.json").read_text())
               for name in ("config", "model")]
    assert records[0]["config"]["model"]["layers"] == 16
    assert records[0] == records[1], "a config.json and the model made of it run differently"


def check_metrics_are_described(folder, record):
    text, _ = nearkv(folder, "describe", "metrics")
    families = {}
    for line in text.splitlines()[2:]:
        name, unit = line.split()[:2]
        families[re.sub(r"(NAME|PART|MEMORY)$", "", name)] = unit
    for metric in record["metrics"]:
        name = metric["name"]
        family = name if name in families else next(
            (f for f in families if f.endswith("/") and name.startswith(f)), None)
        assert family, f"nearkv describe metrics lacks {name}"
        assert families[family] == metric["unit"], f"{name}: {metric['unit']}, {families[family]}"


def check_overrides_and_workers(folder):
    cases = {"one": ("--jobs", "1"), "four": ("--jobs", "4")}
    for out, jobs in cases.items():
        text, _ = nearkv(folder, "run", DENSE, SPARF, "--set", "workload/batch=4",
                         "--set=/workload/output_tokens=8", "--json", "--out", out, *jobs)
        records = json.loads(text)
        assert [r["config"]["workload"]["batch"] for r in records] == [4, 4]
        assert [r["config"]["workload"]["output_tokens"] for r in records] == [8, 8]
    assert_same(contents(folder / "one"), contents(folder / "four"))
    text, _ = nearkv(folder, "run", DENSE, "--set", "csd/0/flash/t_read=20us", "--constants")
    assert re.search(r"/csd/0/flash/t_read +20us +override", text), text


def check_out_of_memory_is_a_result(folder):
    text, _ = nearkv(folder, "run", POINTS / "flexgen_opt13b_a6000.json", "--set",
                     "workload/batch=2048")
    assert "out_of_memory" in text, text
    record = json.loads((folder / "results/flexgen_opt13b_a6000.record.json").read_text())
    assert record["status"] == "out_of_memory"


def check_configs_are_found(folder):
    """Without NEARKV_HOME, from the program's place; the working folder does not matter."""
    command = [BINARY, "figure", "list"]
    plain = {k: v for k, v in os.environ.items() if k != "NEARKV_HOME"}
    done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True,
                          check=False)
    if SOURCE in Path(BINARY).resolve().parents:
        assert done.returncode == OK and "fig14" in done.stdout, done
    else:
        assert done.returncode == USER_ERROR and done.stderr.startswith("NEARKV_HOME: "), done
    assert "fig14" in nearkv(folder, "figure", "list")[0]
    assert json.loads(nearkv(folder, "figure", "list", "--json")[0])[0]["title"]


def check_figure(folder):
    """Equal bytes for any number of workers, pictures included; JSON, CSV and files agree."""
    for out, jobs in {"one": "1", "four": "4"}.items():
        text, errors = nearkv(folder, "figure", "fig14", "--quick", "--out", out, "--jobs", jobs)
        assert "C01" in text and "role" in text, text
        assert re.search(r"^insti_sparf +[\d.]+ ", text, re.MULTILINE), text
        assert f"of {QUICK_POINTS} points" in errors, errors
    files = contents(folder / "one")
    assert_same(files, contents(folder / "four"))
    points = [name for name in files if name.endswith(".record.json")]
    assert len(points) == QUICK_POINTS, points
    if "warning: no picture" not in errors:
        assert {"fig14_quick.pdf", "fig14_quick.png"} <= files.keys(), list(files)

    document = json.loads(nearkv(folder, "figure", "fig14", "--quick", "--json")[0])
    rows = list(csv.DictReader(files["fig14_quick.csv"].decode().splitlines()))
    assert len(rows) == len(document["points"]) == QUICK_POINTS
    for row, point in zip(rows, document["points"]):
        assert row["series"] == point["series"] and row["status"] == point["status"]
        assert row["batch [sequences]"] == point["batch"]
        if point["status"] == "ok":
            value = point["metrics"]["throughput"]["value"]
            assert float(row["throughput [token/s]"]) == value
            record = json.loads(files[f"fig14_quick/{point['series']}_batch_{point['batch']}"
                                      ".record.json"])
            stored = {m["name"]: m["value"] for m in record["metrics"]}
            assert stored["throughput"] == value
    claims = json.loads(files["fig14_quick.claims.json"])
    assert claims["claims"] == document["claims"] and claims["quick"] is True
    roles = {claim["id"]: claim["role"] for claim in claims["claims"]}
    assert roles == {"C01": "fit", "C02": "test", "C03": "fit", "C04": "test", "C05": "test",
                     "C06": "fit", "C07": "test", "C08a": "test", "C08b": "test",
                     "C09": "test"}, roles


def check_missing_matplotlib(folder):
    (folder / "python").mkdir()
    (folder / "python" / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')\n")
    _, errors = nearkv(folder, "figure", "fig14", "--quick", "--out", "out",
                       PYTHONPATH=str(folder / "python"))
    warnings = [line for line in errors.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "python3-matplotlib" in warnings[0], errors
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"fig14_quick.csv", "fig14_quick.claims.json"} <= names, names
    assert not {"fig14_quick.png", "fig14_quick.pdf"} & names, names


def check_unwritable_output(folder):
    (folder / "file").write_text("")
    _, errors = nearkv(folder, "run", DENSE, "--out", "file/below", status=USER_ERROR)
    assert errors == "file/below: file is no folder; name another one with --out\n", errors
    # Nobody may create files there, not even root.
    _, errors = nearkv(folder, "run", DENSE, "--out", "/proc/nearkv", status=USER_ERROR)
    assert errors.startswith("/proc/nearkv") and len(errors.splitlines()) == 1, errors
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([BINARY, "describe", "metrics"], env=environment(), stdout=full,
                              stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == USER_ERROR and done.stderr.startswith("stdout: "), done


def check_interruption(folder):
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(folder, "figure", "fig14", "--out", "out", "--jobs", "2")
        children = wait_for_children(process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 128 + number, (process.returncode, errors)
        assert "interrupted" in errors, errors
        assert not any(Path(f"/proc/{child}").exists() for child in children), "a child lives on"
        assert contents(folder) == {}, contents(folder).keys()


def check_killed_parent(folder):
    process = start(folder, "figure", "fig14", "--out", "out", "--jobs", "2")
    children = wait_for_children(process)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        # Where nobody reaps orphans they stay as zombies, which is not ours to change.
        states = [(Path(f"/proc/{child}/stat"), child) for child in children]
        alive = [c for s, c in states if s.exists() and ") Z " not in s.read_text()]
        if not alive:
            break
        assert time.monotonic() < deadline, "children outlive a killed parent"
        time.sleep(0.01)
    assert contents(folder) == {}, contents(folder).keys()


def check_crashing_child(folder):
    process = start(folder, "figure", "fig14", "--quick", "--out", "out", "--jobs", "1")
    os.kill(wait_for_children(process)[0], signal.SIGKILL)
    text, errors = process.communicate(timeout=120)
    assert process.returncode == INTERNAL_ERROR, (process.returncode, errors)
    assert text == "", text
    assert re.search(r"^fig14, deepspeed, batch 16: was ended by signal 9", errors,
                     re.MULTILINE), errors
    assert f"fig14: 1 of {QUICK_POINTS} points failed; nothing was written" in errors, errors
    assert contents(folder) == {}, contents(folder).keys()


def check_schema(folder, record):
    text, _ = nearkv(folder, "schema")
    assert text == SCHEMA.read_text(encoding="utf-8"), (
        f"{SCHEMA} is not what the program says; run: nearkv schema > {SCHEMA}")
    try:
        import jsonschema
    except ModuleNotFoundError:
        return
    jsonschema.Draft202012Validator(json.loads(text)).validate(record["config"])


def check_describe(folder):
    text, _ = nearkv(folder, "describe", "csd/0/flash")
    t_read = "/csd/*/flash[cell=slc]/t_read "
    assert t_read in text and "[constant]" in text and "/gpu" not in text, text
    assert t_read in nearkv(folder, "describe")[0]
    for topic, part in {"systems": "insti_sparf", "models": "OPT-13B", "metrics": "token/s",
                        "figures": "fig14", "system": "kind"}.items():
        assert part in nearkv(folder, "describe", topic)[0], topic
    assert max(map(len, text.splitlines())) <= 120


def main():
    with tempfile.TemporaryDirectory() as folder:
        record = check_run_writes_a_record(Path(folder))
    checks = [
        check_help_and_version,
        lambda folder: check_metrics_are_described(folder, record),
        check_models_of_the_hub,
        check_overrides_and_workers,
        check_out_of_memory_is_a_result,
        check_configs_are_found,
        check_figure,
        check_missing_matplotlib,
        check_unwritable_output,
        check_interruption,
        check_killed_parent,
        check_crashing_child,
        lambda folder: check_schema(folder, record),
        check_describe,
    ]
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    print(f"{len(checks) + 1} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
