"""Drives nearkv calibrate: files, what --from derives again, and a run with a calibrated part.

Needs NEARKV_BINARY and NEARKV_SOURCE. Times are looked at only for being there.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
SHIPPED = SOURCE / "configs" / "calibration"

OK, USER_ERROR = 0, 2


def nearkv(folder, *arguments, status=OK):
    """Runs the program in a folder; returns (stdout, stderr)."""
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "NEARKV_HOME": str(SOURCE)},
                          capture_output=True, text=True, check=False)
    assert done.returncode == status, (
        f"{command}: status {done.returncode} instead of {status}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def check_quick_calibration(folder):
    text, _ = nearkv(folder, "calibrate", "--device", "cpu", "--quick", "--out", "out/host.json",
                     "--json")
    document = json.loads(text)
    measurements = folder / "out" / "measurements" / "host.json"
    assert json.loads(measurements.read_text()) == document["measurements"]
    assert json.loads((folder / "out" / "host.json").read_text()) == document["host"]
    assert {path.name for path in (folder / "out").rglob("*")} == {
        "host.json", "measurements"}, list((folder / "out").rglob("*"))
    environment = document["measurements"]["environment"]
    for key in ("device", "date", "command", "program", "compiler", "cpu", "cpu_megahertz",
                "system", "eigen"):
        assert environment[key] or key == "cpu_megahertz", f"the environment lacks {key}"
    kinds = {}
    for row in document["measurements"]["rows"]:
        kinds.setdefault(row["what"], []).append(row)
        assert 0 < row["p10"] <= row["median"] <= row["p90"] and row["runs"] >= 1, row
    expected = {"cores", "host_memory", "page_size", "memory_read", "memory_copy", "first_touch",
                "gemm", "decode_attention", "prefill_attention"}
    assert set(kinds) == expected, set(kinds)
    compressions = {row["parameters"].get("compression") for row in kinds["decode_attention"]}
    assert compressions == {None, 1, 2, 4, 8, 16}, compressions
    host = document["host"]
    for name in ("cores", "dram", "dram_rate", "page_size"):
        assert host[name]["source"] == "measured" and "runs" in host["dram_rate"]["citation"]

    before = (folder / "out" / "host.json").read_bytes()
    nearkv(folder, "calibrate", "--from", measurements, "--out", "again/host.json")
    assert (folder / "again" / "host.json").read_bytes() == before
    assert not (folder / "again" / "measurements").exists()
    return folder / "out" / "host.json"


def check_run_with(folder, host):
    (folder / "point.json").write_text(json.dumps({
        "extends": "nearkv:design_points/insti_dense_opt13b_a6000.json", "name": "calibrated",
        "gpu": [{"extends": "nearkv:calibration/nvidia_h200.json"}],
        "host": {"extends": str(host)}}))
    text, _ = nearkv(folder, "run", "point.json", "--json", "--set", "workload/output_tokens=4")
    record = json.loads(text)
    assert record["config"]["gpu"][0]["kernel_launch"]["source"] == "measured"
    assert record["config"]["host"]["dram_rate"]["source"] == "measured"
    assert record["constants"]["count_by_source"]["measured"] >= 15


def check_another_gpu(folder):
    """A GPU without a config needs its peaks; with them every constant is there."""
    document = json.loads((SHIPPED / "measurements" / "nvidia_h200.json").read_text())
    document["environment"]["device"] = "Another GPU"
    (folder / "rows.json").write_text(json.dumps(document))
    _, errors = nearkv(folder, "calibrate", "--from", "rows.json", "--out", "gpu.json",
                       status=USER_ERROR)
    assert errors.startswith("--memory-bandwidth: Another GPU has no config"), errors
    peaks = ("--memory-bandwidth", "5TB/s", "--tensor-peak", "1000TFLOP/s")
    nearkv(folder, "calibrate", "--from", "rows.json", "--out", "gpu.json", *peaks)
    config = json.loads((folder / "gpu.json").read_text())
    assert "extends" not in config and config["tensor_peak"]["value"] == "1000TFLOP/s"
    assert config["tensor_peak"]["source"] == "datasheet"
    assert config["power"]["active"]["source"] == config["price_usd"]["source"] == "assumed"
    _, errors = nearkv(folder, "calibrate", "--from", "rows.json", "--out", "gpu.json",
                       "--memory-bandwidth", "1TB/s", "--tensor-peak", "1000TFLOP/s",
                       status=USER_ERROR)
    assert "--memory-bandwidth" in errors and len(errors.splitlines()) == 1, errors


def check_unusable_output(folder):
    _, errors = nearkv(folder, "calibrate", "--device", "cpu", "--out", "/proc/x/y.json",
                       status=USER_ERROR)
    assert errors.startswith("/proc/x/y.json") and len(errors.splitlines()) == 1, errors


def check_no_cuda(folder):
    """A program without CUDA kernels says what to build; one with them needs no device here."""
    if "CUDA kernels OFF" in nearkv(folder, "version")[0]:
        _, errors = nearkv(folder, "calibrate", "--device", "cuda", "--out", "gpu.json",
                           status=USER_ERROR)
        assert errors.startswith("--device: cuda: this program was built without"), errors
        assert "NEARKV_PRESET=cuda" in errors and len(errors.splitlines()) == 1, errors


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_run_with(folder, check_quick_calibration(folder))
        check_another_gpu(folder)
        check_unusable_output(folder)
        check_no_cuda(folder)
    print("nearkv calibrate: all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
