"""The Python package: points, sweeps, tables, errors; the studies and notebooks that use it. Needs
NEARKV_BINARY, NEARKV_HOME and pandas.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED = 77
PLOTS = Path(__file__).resolve().parent
CONFIGS = PLOTS.parent / "configs"

try:
    import pandas
except ModuleNotFoundError:
    print("pandas is missing; install the Debian package python3-pandas")
    sys.exit(SKIPPED)

import nearkv
from nearkv import sensitivity

SMALL = {"workload": {"prompt_tokens": 256, "output_tokens": 64, "batch": 4}}
DENSE = {**nearkv.shipped("design_points/insti_dense_opt13b_a6000.json"), **SMALL}
SWEEP = {
    "title": "a test",
    "point": DENSE,
    "axes": [
        {"name": "system", "variants": [
            {"name": "None", "point": {}},
            {"name": "flexgen",
             "point": {**nearkv.shipped("design_points/flexgen_opt13b_a6000.json"), **SMALL}},
        ]},
        {"path": "/workload/batch", "values": [4, 100000]},
        {"path": "/gpu/0/memory_bandwidth", "values": ["700GB/s"]},
    ],
    "skip": ["system == \"flexgen\" and batch > 4"],
    "metrics": ["throughput", "utilization/*"],
}


def check_run():
    record = nearkv.run(DENSE, name="small")
    assert record.status == "ok" and record.document["name"] == "small"
    assert record["throughput"] > 0 and record.unit("throughput") == "token/s"
    faster = nearkv.run(DENSE, settings={"csd/0/flash/channels": 16, "csd/0/flash/t_read": "20us"})
    assert faster["throughput"] > record["throughput"]
    assert "throughput" in record and len(record) == len(list(record))
    return record


def check_sweep(record):
    with tempfile.TemporaryDirectory() as folder:
        results = nearkv.sweep(SWEEP, name="small", out=folder, cache="")
        frame = results.frame
        assert list(frame["system"]) == ["None", "None", "flexgen"], frame
        assert list(frame["batch"]) == [4, 100000, 4]
        assert list(frame["status"]) == ["ok", "refused", "ok"]
        assert set(frame["memory_bandwidth"]) == {700e9}
        assert results.units["memory_bandwidth"] == "B/s"
        assert frame["throughput"].isna().tolist() == [False, True, False]
        assert results.label("throughput") == "throughput (token/s)"
        assert len(results.ran()) == 2
        assert "utilization/csd/0/flash/channels" in frame.columns
        again = nearkv.read(Path(folder) / "small")
        assert again.frame.equals(frame)
        check_parquet(results, Path(folder))
    plain = nearkv.sweep({**SWEEP, "axes": [{"path": "/workload/batch", "values": [4]}],
                          "skip": []}, cache="")
    assert plain.frame["throughput"][0] == record["throughput"]


def check_parquet(results, folder):
    file = folder / "points.parquet"
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        try:
            results.to_parquet(file)
        except ModuleNotFoundError as error:
            assert "pip install pyarrow" in str(error)
        return
    results.to_parquet(file)
    import pandas
    from pyarrow import parquet
    assert pandas.read_parquet(file).equals(results.frame)
    assert parquet.read_schema(file).field("throughput").metadata == {b"unit": b"token/s"}


def check_errors():
    for call, words in (
        (lambda: nearkv.run({**DENSE, "wrkload": {}}), "/wrkload: unknown key"),
        (lambda: nearkv.run(DENSE, settings={"csd/0/flash/chanels": 4}), "did you mean"),
        (lambda: nearkv.sweep({**SWEEP, "skip": ["btch > 1"]}), "did you mean \"batch\"?"),
    ):
        try:
            call()
        except nearkv.Error as error:
            assert words in str(error) and error.status == 2, error
        else:
            raise AssertionError(words)


def refusal(call):
    try:
        call()
    except nearkv.Error as error:
        assert error.status == 2, error
        return str(error)
    return ""


def check_files_outside(folder):
    """A file may not name files outside of its folder; what the caller wrote himself may."""
    outside = folder / "shared"
    for made in (outside, folder / "study"):
        made.mkdir()
    (outside / "base.json").write_text(json.dumps(DENSE), encoding="utf-8")
    point = {"extends": str(outside / "base.json"), "name": "far"}
    sweep_of = {**SWEEP, "point": point, "axes": [{"path": "/workload/batch", "values": [4]}],
                "skip": []}
    file, sweep_file = folder / "study" / "point.json", folder / "study" / "far.json"
    file.write_text(json.dumps(point), encoding="utf-8")
    sweep_file.write_text(json.dumps(sweep_of), encoding="utf-8")
    for call in (lambda: nearkv.run(file), lambda: nearkv.run(point, allow_outside=False),
                 lambda: nearkv.run(file, allow_outside=[folder / "other"]),
                 lambda: nearkv.sweep(sweep_file, out=folder, cache="")):
        said = refusal(call)
        assert "/extends: " in said and "--allow-outside" in said, said
    found = {nearkv.run(file, allow_outside=outside_of)["throughput"]
             for outside_of in (True, [outside])} | {nearkv.run(point)["throughput"]}
    assert len(found) == 1, found
    for results in (nearkv.sweep(sweep_file, out=folder, cache="", allow_outside=True),
                    nearkv.sweep(sweep_of, cache="")):
        assert set(results.frame["throughput"]) == found

    # An analysis hands on to its sweeps what its file may name, and no more.
    spec = folder / "study" / "spec.json"
    document = {**SPEC, "systems": {"dense": point}, "value": {"metric": "throughput",
                                                               "of": "dense"},
                "parameters": SPEC["parameters"][:1]}
    spec.write_text(json.dumps(document), encoding="utf-8")
    arguments = ("sensitivity", spec, "--out", folder / "out", "--cache", "", "--json")
    said = refusal(lambda: nearkv.program.call(*arguments))
    assert "/extends: " in said and "--allow-outside" in said, said
    for option in ("--allow-outside", f"--allow-outside={outside}"):
        told = json.loads(nearkv.program.call(*arguments, option))
        assert {told["nominal"]} == found, told
    (folder / "study" / "base.json").write_text(json.dumps(DENSE), encoding="utf-8")
    document["systems"] = {"dense": {**point, "extends": "base.json"}}
    spec.write_text(json.dumps(document), encoding="utf-8")
    assert {json.loads(nearkv.program.call(*arguments))["nominal"]} == found


SPEC = {
    "title": "a test",
    "systems": {"dense": DENSE,
                "flexgen": {**nearkv.shipped("design_points/flexgen_opt13b_a6000.json"), **SMALL}},
    "value": {"metric": "throughput", "of": "dense", "over": "flexgen"},
    "above": 0.001,
    "parameters": [
        {"path": "/csd/0/flash/t_read", "range": {"from": "10us", "to": "200us"}},
        {"path": "/csd/0/controller/command_cost"},
        {"path": "/gpu/0/kernel_launch", "range": {"from": "1us", "to": "50us"}},
    ],
    "method": {"kind": "tornado"},
}


def check_tornado(folder):
    analysis = sensitivity.analyse(SPEC, folder / "tornado", cache="")
    rows = {row["parameter"]: row for row in analysis.rows}
    assert rows["t_read"]["at_low"] > analysis.nominal > rows["t_read"]["at_high"]
    assert rows["command_cost"]["at_low"] >= analysis.nominal >= rows["command_cost"]["at_high"]
    assert [row["swing"] for row in analysis.rows] == sorted(
        (row["swing"] for row in analysis.rows), reverse=True)
    assert "It stays above 0.001 in all of them" in analysis.sentence, analysis.sentence
    slow = nearkv.run(DENSE, settings={"csd/0/flash/t_read": "200us"})["throughput"]
    flexgen = nearkv.run(SPEC["systems"]["flexgen"])["throughput"]
    assert abs(rows["t_read"]["at_high"] / (slow / flexgen) - 1) < 1e-4
    assert not analysis.drawn and not (folder / "tornado/samples.csv").exists()
    draw("sensitivity", folder / "tornado/sensitivity.csv", folder / "picture")


def draw(script, data, stem):
    subprocess.run(["/usr/bin/python3", "-B", PLOTS / f"{script}.py", data, stem], check=True)
    assert Path(f"{stem}.png").stat().st_size > 10_000


def check_indices(folder):
    """Without SALib, the message; with it, what one dominant parameter must give."""
    for kind, settings in (("morris", {"trajectories": 8}),
                           ("sobol", {"base_samples": 16, "second_order": True})):
        spec = {**SPEC, "value": {"metric": "throughput", "of": "dense"},
                "parameters": SPEC["parameters"][:2], "method": {"kind": kind, **settings}}
        try:
            import SALib  # noqa: F401
        except ModuleNotFoundError:
            try:
                sensitivity.analyse(spec, folder / kind, cache="")
            except ModuleNotFoundError as error:
                assert "pip install SALib" in str(error)
            else:
                raise AssertionError("no SALib, and no message")
            continue
        analysis = sensitivity.analyse(spec, folder / kind, cache="")
        assert [row["parameter"] for row in analysis.rows] == ["t_read", "command_cost"]
        first = analysis.rows[0]
        assert first["mu"] < 0 if kind == "morris" else 0.8 < first["ST"] < 1.3, first
        check_samples(analysis, folder / kind)
        assert len(analysis.pairs) == (1 if kind == "sobol" else 0), analysis.pairs


def check_samples(analysis, folder):
    """Slow flash goes with few tokens, in the object and in the table, which is then drawn."""
    drawn = analysis.drawn["t_read"]
    assert len(drawn) == len(analysis.values) and 10e-6 <= min(drawn) < max(drawn) <= 200e-6
    slowest, fastest = (analysis.values[drawn.index(one)] for one in (max(drawn), min(drawn)))
    assert slowest < fastest
    table = pandas.read_csv(folder / "samples.csv")
    assert list(table.columns) == ["t_read [s]", "command_cost [s]", "value [token/s]"]
    assert table["value [token/s]"].tolist() == analysis.values
    draw("sensitivity", folder / "sensitivity.csv", folder / "picture")


def check_shipped_specs():
    for file in (CONFIGS / "sensitivity").glob("*.json"):
        assert sensitivity.load(file).parameters, file


def check_bad_specs():
    for changes, words in (
        ({"parameters": []}, "/parameters: must be a list of parameters"),
        ({"parameters": [{"path": "/x"}, {"path": "x"}]}, "/parameters/1/path: /x is there twice"),
        ({"parameters": [{"path": "/csd/0/flash/chanels"}]}, "/parameters/0/path: "
         "/csd/0/flash/chanels: no system has it"),
        ({"value": {"metric": "throughput", "of": "sparf"}}, "/value/of: must be one of"),
        ({"value": {"metric": "thruput", "of": "dense"}}, "/value/metric: dense has no metric"),
        ({"method": {"kind": "sobol", "base_samples": 100}}, "64 and 128 are near"),
        ({"method": {"kind": "sobol", "base_samples": 1 << 40}},
         "/method/base_samples: must be a whole number of 1 to 1048576"),
        ({"parameters": [{"path": f"/x/{i}"} for i in range(10_001)]},
         "/parameters: has 10001; at most 10000 are varied"),
        ({"method": {"kind": "fast"}}, "/method/kind: must be one of tornado, morris, sobol"),
        ({"method": {"kind": "tornado", "levels": 4}}, "/method/levels: unknown key"),
        ({"below": 1}, "/below: ask one question"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            try:
                sensitivity.analyse({**SPEC, **changes}, folder, cache="")
            except sensitivity.SpecError as error:
                assert words in str(error), error
            else:
                raise AssertionError(words)


def small_study(name, folder):
    """A shipped sweep with two values an axis and one model, run and drawn."""
    text = (CONFIGS / "sweeps" / f"{name}.json").read_text(encoding="utf-8")
    document = json.loads(text.replace('"../', f'"{CONFIGS}/'))
    for axis in document["axes"]:
        for one in axis.get("zip", [axis]):
            if "values" in one:
                one["values"] = one["values"][:2]
            if one.get("name") == "model":
                one["variants"] = one["variants"][:1]
    results = nearkv.sweep(document, name=name, out=folder, cache="")
    assert set(results.frame["status"]) == {"ok"}, results.frame[["status", "detail"]]
    draw(name, folder / name, folder / f"{name}_picture")
    return results.frame


def check_studies(folder):
    """What short contexts and small changes must show."""
    import attention_map  # once plots/style.py may be imported

    frame = small_study("attention_map", folder)
    for metric, _, sign in attention_map.PANELS:
        cells = attention_map.compared(attention_map.goodness(frame, metric, sign))
        assert len(cells) == 4 and set(cells["winner"]) == {"continuous_batching"}, cells
        assert (cells["factor"] < 1).all(), cells

    frame = small_study("sparsity_page_size", folder)
    speed = frame.pivot(index="compression", columns="page_size", values="throughput")
    assert speed.loc["dense", 2048] > 1.2 * speed.loc["dense", 1024]  # fewer commands
    assert speed.loc["1/32", 1024] > 1.5 * speed.loc["1/8", 1024] > 4 * speed.loc["dense", 1024]

    frame = small_study("csds_uplink", folder)
    frame = frame.set_index(["system", "csds", "uplink_generation", "uplink_lanes"])
    for system in ("insti_dense", "insti_sparf"):
        fast = frame["throughput"][system, 2, 4, 2]
        assert fast > 1.7 * frame["throughput"][system, 1, 4, 2]
        assert 0.9 < frame["throughput"][system, 2, 3, 1] / fast < 1
        assert frame["ttft"][system, 2, 3, 1] > 3 * frame["ttft"][system, 2, 4, 2]


def check_notebooks(folder):
    def said(name):
        done = subprocess.run([sys.executable, "-B", PLOTS / "notebooks" / f"{name}.py",
                               folder / name, "--quick", "--workers", "1"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = said("design_sweep")
    assert "The simplest drive with 15 token/s or more has 16 channels" in text, text
    assert (folder / "design_sweep/design_sweep.png").stat().st_size > 10_000
    text = said("sensitivity")
    assert "most depends on /host/file_system/hit_per_page" in text, text
    assert (folder / "sensitivity/tornado/sensitivity.png").stat().st_size > 10_000


def main():
    os.environ.setdefault("NEARKV_BINARY", "nearkv")
    check_sweep(check_run())
    check_errors()
    with tempfile.TemporaryDirectory() as folder:
        check_files_outside(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        check_tornado(Path(folder))
        check_indices(Path(folder))
        check_studies(Path(folder))
        check_notebooks(Path(folder))
    check_shipped_specs()
    check_bad_specs()


main()
