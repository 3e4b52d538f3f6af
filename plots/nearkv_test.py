"""The Python package: points, sweeps, tables, errors. Needs NEARKV_BINARY, NEARKV_HOME and pandas.
"""

import os
import sys
import tempfile
from pathlib import Path

SKIPPED = 77

try:
    import pandas  # noqa: F401
except ModuleNotFoundError:
    print("pandas is missing; install the Debian package python3-pandas")
    sys.exit(SKIPPED)

import nearkv

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


def main():
    os.environ.setdefault("NEARKV_BINARY", "nearkv")
    check_sweep(check_run())
    check_errors()


main()
