"""`nearkv requests` and `nearkv run` with many requests, as a user calls them.

Every format is read, written in every format and read again; a run writes a row for each request,
and equal bytes whatever the number of jobs. Needs NEARKV_BINARY and NEARKV_SOURCE.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(os.environ["NEARKV_SOURCE"])
FIXTURES = SOURCE / "traces" / "fixtures"
FORMATS = {"azure": "small.azure.csv", "azure_original": "small.azure_original.csv",
           "burstgpt": "small.burstgpt.csv", "arxiv": "small.arxiv.csv",
           "mooncake": "small.mooncake.jsonl"}


def nearkv(folder, *arguments):
    done = subprocess.run([os.environ["NEARKV_BINARY"], *map(str, arguments)], cwd=folder,
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def figures(folder, file):
    return json.loads(nearkv(folder, "requests", file, "--json"))


def check_formats(folder):
    lengths = None
    for name, fixture in FORMATS.items():
        shown = figures(folder, FIXTURES / fixture)
        assert shown["input"] == f"trace of format {name}", shown
        assert shown["requests"] == 64, shown
        assert ("arrivals" in shown) == (name != "arxiv"), shown
        found = {key: shown[key] for key in ("prompt_tokens", "output_tokens")}
        lengths = lengths or found
        assert found == lengths, (name, found, lengths)
        for other in FORMATS:
            for ending in ("txt", "gz"):
                out = f"{name}.{other}.{ending}"
                nearkv(folder, "requests", FIXTURES / fixture, "--out", out, "--out-format", other)
                again = figures(folder, out)
                assert again["input"] == f"trace of format {other}", again
                kept = set(found) | ({"arrivals"} if "arxiv" not in (name, other) else set())
                for key in kept - ({"arrivals"} if other == "mooncake" else set()):
                    assert again[key] == shown[key], (out, key, again[key], shown[key])


def check_drawn(folder):
    workload = "nearkv:requests/azure_conversation.json"
    for out in ("a.csv", "b.csv"):
        nearkv(folder, "requests", workload, "--set", "requests=200", "--out", out)
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()
    assert len((folder / "a.csv").read_text().splitlines()) == 201
    nearkv(folder, "requests", workload, "--set", "requests=200", "--seed", 2, "--out", "b.csv")
    assert (folder / "a.csv").read_bytes() != (folder / "b.csv").read_bytes()


def check_run(folder):
    point = {"extends": "nearkv:design_points/deepspeed_opt13b_a6000.json", "name": "many",
             "model": {"extends": "nearkv:models/opt-13b.json", "layers": 2},
             "workload": {"extends": "nearkv:requests/trace.json",
                          "file": str(FIXTURES / FORMATS["azure"]), "requests": 20,
                          "batching": {"order": "length", "sequences": 4},
                          "limits": [{"of": "ttft", "at_most": "5s"}]}}
    other = {**point, "name": "others"}
    for name, config in (("many", point), ("others", other)):
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    # The trace is outside of the config's folder.
    text = nearkv(folder, "run", "many.json", f"--allow-outside={FIXTURES}")
    assert "20 requests of " in text and "to the first token" in text and "goodput" in text, text
    assert "requests: results/many.requests.csv" in text, text
    with open(folder / "results" / "many.requests.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 20, rows
    for row in rows:
        ttft, end, queueing = (float(row[key]) for key in ("ttft", "end_to_end", "queueing"))
        assert 0 <= queueing < ttft <= end, row
        assert abs(ttft + float(row["tpot"]) * (int(row["output_tokens"]) - 1) - end) < 1e-9, row
    metrics = {metric["name"]: metric["value"] for metric in json.loads(
        (folder / "results" / "many.record.json").read_text(encoding="utf-8"))["metrics"]}
    mean = sum(float(row["ttft"]) for row in rows) / len(rows)
    assert abs(metrics["ttft"] - mean) < 1e-9, (metrics["ttft"], mean)
    first = (folder / "results" / "many.requests.csv").read_bytes()
    nearkv(folder, "run", "many.json", "others.json", "--jobs", "2", "--out", "two",
           "--allow-outside")
    assert (folder / "two" / "many.requests.csv").read_bytes() == first


def main():
    for check in (check_formats, check_drawn, check_run):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
        print(f"{check.__name__}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
