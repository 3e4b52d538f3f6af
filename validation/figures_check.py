"""Every figure and table by one command, quick: files, tables, pictures; folders of others.

Needs NEARKV_BINARY and NEARKV_SOURCE. That equal inputs give equal bytes is cli_check.py's.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
OK, USER_ERROR = 0, 2
FIGURES = {"fig04", "fig05", "fig06", "fig13", "fig14", "fig15", "fig16", "fig17", "fig18", "fig19",
           "fig20a", "fig20b", "fig21", "fig22", "fig23", "table1", "table2", "table3", "endurance"}
LIST = "nearkv-figures.json"


def nearkv(folder, *arguments, status=OK):
    """Runs the program in a folder; returns (stdout, stderr)."""
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "NEARKV_HOME": str(SOURCE)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, (
        f"{command}: status {done.returncode} instead of {status}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def table_of(folder, name):
    with open(folder / f"{name}_quick.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def near(value, expected, tolerance):
    return abs(float(value) / expected - 1) <= tolerance


def has_matplotlib():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


# -- Checks -----------------------------------------------------------------------------------


def check_list(folder):
    names = {entry["figure"] for entry in json.loads(nearkv(folder, "figure", "list", "--json")[0])}
    assert names == {*FIGURES, "gantt"}, names ^ FIGURES
    lacking = [name for name in FIGURES if not (SOURCE / "plots" / f"{name}.py").exists()]
    assert not lacking, f"no plot scripts: {lacking}"


def check_files(folder, text):
    listed = json.loads((folder / LIST).read_text(encoding="utf-8"))["figures"]
    for name in FIGURES:
        stem = f"{name}_quick"
        assert f"{name}: " in text and f"wrote out/{stem}.csv" in text, f"{name} is not told"
        assert table_of(folder, name), f"{stem}.csv has no rows"
        claims = json.loads((folder / f"{stem}.claims.json").read_text(encoding="utf-8"))
        assert claims["figure"] == name and claims["title"] and claims["source"], claims
        if has_matplotlib():
            for ending, signature in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
                picture = (folder / f"{stem}.{ending}").read_bytes()
                assert picture.startswith(signature) and len(picture) > 2000, f"{stem}.{ending}"
        records = {f"{stem}/{path.name}" for path in (folder / stem).glob("*.record.json")}
        assert records <= set(listed[stem]), f"{name}: records that are not listed"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {file for files in listed.values() for file in files} | {LIST}
    assert there <= expected, there - expected


def check_shares(folder):
    for name in ("fig05", "fig18", "fig19"):
        for row in table_of(folder, name):
            shares = {key: float(value) for key, value in row.items()
                      if key.startswith("share/") and value}
            if row["status"] == "ok":
                assert near(sum(shares.values()), 1, 1e-9), (name, row["series"], shares)
                assert near(shares["share/kv_access"] + 1, float(row["kv_access_share"]) + 1, 1e-9)
    vram = next(row for row in table_of(folder, "fig05")
                if row["series"] == "flexgen_vram" and row["status"] == "ok")
    assert float(vram["share/weights"]) > float(vram["share/gpu_attention"]) > 0, vram


def check_tables(folder):
    units = {(row["unit"], row["quantity"]): row for row in table_of(folder, "table1")}
    assert near(units["GeMV", "latency"]["ours"], 16 * 128 * 2 / 12.7e9, 1e-4), units
    assert near(units["softmax", "latency"]["ours"], 164e-6, 1e-4), units
    assert near(units["filter", "rate"]["ours"], 1.85e9, 1e-3), units
    assert units["softmax", "rate"]["ours"] == "", "the model has no such rate"

    fpga = {(row["design"], row["unit"], row["resource"]): row
            for row in table_of(folder, "table2")}
    for resource in ("lut", "dsp"):
        whole = fpga["engine_of_the_paper", "all", resource]
        assert near(whole["share"], float(whole["paper_share"]), 0.001), whole
    half, paper = (fpga[design, "attention kernels", "dsp"]["amount"]
                   for design in ("4_channels_1_kernel", "engine_of_the_paper"))
    assert near(half, float(paper) / 2, 1e-9), (half, paper)

    users = {(row["design"], row["years"]): float(row["users"])
             for row in table_of(folder, "endurance")}
    assert near(users["insti_dense", "5"], 920, 0.01), users
    assert users["insti_sparf", "5"] < 0.7 * users["insti_dense", "5"], "K is written twice"

    read = {row["series"]: row["quantity/decode read, a layer [B]"]
            for row in table_of(folder, "table3")}
    assert near(read["insti_sparf"], 1085.65e9, 0.1), read


def check_roofline(folder):
    rows = table_of(folder, "fig06")
    roofs = {row["machine"]: row for row in rows if row["what"] == "roof"}
    operators = [row for row in rows if row["what"] == "operator"]
    assert {row["name"] for row in operators} >= {"qkv_projection", "ffn_in", "attention",
                                                  "insti_dense", "insti_sparf"}
    for row in operators:
        roof = roofs[row["machine"]]
        most = min(float(roof["peak [FLOP/s]"]),
                   float(roof["bandwidth [B/s]"]) * float(row["intensity [FLOP/B]"]))
        assert 0 < float(row["achieved [FLOP/s]"]) <= most * (1 + 1e-9), row


def check_accuracy(folder):
    rows = {(row["method"], float(row["ratio"])): row for row in table_of(folder, "fig13")}
    assert rows["sparf", 0.125]["perplexity"] == rows["sparq", 0.125]["perplexity"]
    assert float(rows["sparf", 0.125]["error_mean"]) < float(rows["h2o", 0.125]["error_mean"])


def check_folders_of_others(folder):
    """What is not ours, or another version's, stays as it is."""
    out = folder / "out"
    out.mkdir()
    (out / "table1.csv").write_text("a user's", encoding="utf-8")
    _, errors = nearkv(folder, "figure", "table1", "--out", "out", status=USER_ERROR)
    assert errors == (f"out/table1.csv: is there, but out/{LIST} does not list it as a figure's; "
                      "it is not overwritten: move it away, or name another folder with --out\n")
    assert [path.name for path in out.iterdir()] == ["table1.csv"]
    assert (out / "table1.csv").read_text(encoding="utf-8") == "a user's"
    (out / "table1.csv").unlink()

    nearkv(folder, "figure", "table1", "--out", "out")
    nearkv(folder, "figure", "table1", "--out", "out")  # its own files
    listed = json.loads((out / LIST).read_text(encoding="utf-8"))
    for key, value in (("format", 99), ("program", {"name": "nearkv", "version": "99.0.0"})):
        (out / LIST).write_text(json.dumps({**listed, key: value}), encoding="utf-8")
        before = {path: path.read_bytes() for path in out.iterdir()}
        _, errors = nearkv(folder, "figure", "table1", "--out", "out", status=USER_ERROR)
        assert errors.startswith(f"out/{LIST}: /{key}: is ") and errors.endswith(
            "remove the folder, or name another one with --out\n"), errors
        assert before == {path: path.read_bytes() for path in out.iterdir()}


def main():
    with tempfile.TemporaryDirectory() as folder:
        check_list(Path(folder))
        check_folders_of_others(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        text, errors = nearkv(Path(folder), "figure", "all", "--quick", "--out", "out")
        assert has_matplotlib() or "python3-matplotlib" in errors, errors
        out = Path(folder) / "out"
        check_files(out, text)
        for check in (check_shares, check_tables, check_roofline, check_accuracy):
            check(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
