"""`nearkv replay` from end to end: formats, files, exit statuses, equal bytes, closed forms.

Needs NEARKV_BINARY and NEARKV_SOURCE. What a wrong input prints is bad_traces_check.py's.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
FIXTURES = SOURCE / "traces" / "fixtures"
WORKLOADS = SOURCE / "configs" / "workloads"
TPCC = SOURCE.parent / "shared" / "traces" / "tpcc_small.block.trace"
SSD = ("--device", "nearkv:platforms/ssds/samsung_980_pro_2tb.json")
SMALL_SSD = ("--device", "nearkv:platforms/ssds/small_test_drive.json")
CSD = ("--device", "nearkv:platforms/csds/instinfer_emulated.json")
FULL = ("--set", "ftl/unwritten_reads=as_if_written")  # reads find data everywhere

OK, USER_ERROR = 0, 2
FILES = {"replay.json", "histogram.csv"}


def environment():
    return {**os.environ, "NEARKV_HOME": str(SOURCE)}


def replay(folder, *arguments, status=OK):
    """Runs the command in a folder; returns stdout."""
    command = [BINARY, "replay", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True,
                          check=False)
    assert done.returncode == status, (
        f"{command}: status {done.returncode} instead of {status}\n{done.stdout}{done.stderr}")
    assert (done.stderr == "") == (status == OK), done.stderr
    return done.stdout


def record_of(folder, *arguments):
    return json.loads(replay(folder, *arguments, "--json"))


def metrics_of(record):
    return {metric["name"]: metric["value"] for metric in record["metrics"]}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


# -- Quantities of a drive's config -------------------------------------------------------------

UNITS = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12,
         "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def quantity(device, path):
    """Times in ps, sizes in bytes, rates in bytes a second."""
    value = device
    for name in path.split("/"):
        value = value[name]
    value = value["value"] if isinstance(value, dict) else value
    match = isinstance(value, str) and re.fullmatch(r"([0-9.]+)([A-Za-z]+)(/s)?", value)
    return int(Fraction(match[1]) * UNITS[match[2]]) if match else value


def ceil_div(a, b):
    return -(-a // b)


def message_time(device, payload):
    """Of one message on the drive's link (models/ssd/nvme_config.hpp)."""
    packets = max(1, ceil_div(payload, quantity(device, "link/max_payload")))
    size = payload + packets * quantity(device, "link/packet_overhead")
    exact = ceil_div(ceil_div(size, quantity(device, "link/lanes")) * 10**12,
                     quantity(device, "link/lane_rate"))
    step = quantity(device, "link/time_step")
    return exact - exact % step if step else exact


def bus_time(device, size):
    transfers = ceil_div(size, quantity(device, "flash/bus_width"))
    return ceil_div(transfers * 10**6, quantity(device, "flash/mega_transfers"))


def read_transfer(device, size):
    """What crosses the channel for a read from the start of a page: whole codewords, and their
    part of the spare area (models/ssd/drive_config.hpp)."""
    page, codeword = quantity(device, "flash/page_size"), quantity(device, "controller/codeword")
    data = min(ceil_div(size, codeword) * codeword, page)
    return data + ceil_div(quantity(device, "flash/spare_size") * data, page)


# -- Checks -----------------------------------------------------------------------------------


def check_fixtures_are_what_the_script_makes(folder):
    script = FIXTURES / "make_fixtures.py"
    subprocess.run([sys.executable, "-B", script, folder], check=True)
    made = contents(folder)
    assert made, "no fixtures"
    for name, data in made.items():
        assert data == (FIXTURES / name).read_bytes(), f"{name} differs; run {script}"


def check_formats(folder):
    """Each fixture against an SSD, KV pages against the CSD too; all requests are in the record."""
    cases = [
        ("small.block.trace", (*SSD, *FULL), {"read": 349, "write": 151}),
        ("small.block.trace", (*SSD, *FULL, "--closed-loop", "8"), {"read": 349, "write": 151}),
        ("small.fio.log", (*SSD, *FULL), {"read": 145, "write": 51, "trim": 4}),
        ("small.fio.log", (*CSD, *FULL), {"read": 145, "write": 51, "trim": 4}),
        ("small_dense.kv.trace", (*SSD, "--closed-loop", "64"), {"read": 3072, "batch": 6}),
        ("small_sparf.kv.trace", (*SSD, "--closed-loop", "64"), {"read": 1610, "batch": 6}),
        ("small_dense.kv.trace", CSD, {"batch": 6}),
        ("small_sparf.kv.trace", CSD, {"batch": 6}),
    ]
    for name, arguments, counts in cases:
        record = record_of(folder, FIXTURES / name, *arguments)
        assert record["status"] == "ok" and record["name"] == name, record["status"]
        found = {kind: histogram["count"] for kind, histogram in record["histograms"].items()}
        assert found == counts, (name, arguments, found)
        for kind, histogram in record["histograms"].items():
            assert sum(bucket["count"] for bucket in histogram["buckets"]) == counts[kind]
        assert metrics_of(record)["simulated_time"] > 0
        text = replay(folder, FIXTURES / name, *arguments)
        assert name in text and "latency" in text and "simulated time" in text, text
    assert contents(folder) == {}, "files without --out"


def check_pages_of_a_csd(folder):
    for name, pages in {"small_dense.kv.trace": 3072, "small_sparf.kv.trace": 1610}.items():
        metrics = metrics_of(record_of(folder, FIXTURES / name, *CSD))
        assert metrics["drive/flash/pages_read"] == pages, (name, metrics)
        assert metrics["attend_commands"] == 24


def check_files(folder):
    """--json, replay.json and histogram.csv agree, and the same input gives the same bytes."""
    arguments = (FIXTURES / "small.block.trace", *SSD, *FULL)
    for out in ("one", "two"):
        printed = replay(folder, *arguments, "--out", out, "--json")
        files = contents(folder / out)
        assert files.keys() == FILES, files.keys()
        assert printed.encode() == files["replay.json"]
    assert contents(folder / "one") == contents(folder / "two")
    text = replay(folder, *arguments, "--out", "one")
    assert "wrote one/replay.json\n      one/histogram.csv\n" in text, text
    rows = list(csv.DictReader(files["histogram.csv"].decode().splitlines()))
    histograms = json.loads(files["replay.json"])["histograms"]
    listed = [(kind, bucket["first_ps"], bucket["last_ps"], bucket["count"])
              for kind in ("read", "write") for bucket in histograms[kind]["buckets"]]
    assert [(row["kind"], int(row["first [ps]"]), int(row["last [ps]"]), int(row["count"]))
            for row in rows] == listed
    text = replay(folder, *arguments, "--json")
    for secret in (str(folder), str(FIXTURES), "wall"):
        assert secret not in text, f"{secret} in a record"


def check_line_ends_and_pipes(folder):
    """A trace with CR LF, one without its last line end, and one from a pipe are the same trace."""
    name = "small.block.trace"
    data = (FIXTURES / name).read_bytes()
    expected = replay(folder, FIXTURES / name, *SSD, *FULL, "--json")
    (folder / name).write_bytes(data.replace(b"\n", b"\r\n"))
    assert replay(folder, name, *SSD, *FULL, "--json") == expected
    (folder / name).write_bytes(data.rstrip(b"\n"))
    assert replay(folder, name, *SSD, *FULL, "--json") == expected
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for arguments, status in (((), USER_ERROR), (("--format", "mqsim"), OK)):
        if status == OK:
            writer = threading.Thread(target=(folder / name).write_bytes, args=(data,))
            writer.start()
        text = replay(folder, name, *SSD, *FULL, "--json", *arguments, status=status)
        if status == OK:
            writer.join()
            assert text == expected


def check_one_read_on_an_idle_drive(folder):
    """Each step of its way, to the picosecond (models/ssd/block_ssd.hpp): a read of one codeword
    and of one page; more than two pages of host memory have their addresses fetched meanwhile."""
    for sectors in (8, 32):
        (folder / "one.trace").write_text(f"5 0 64 {sectors} 1\n")
        record = record_of(folder, "one.trace", *SSD, *FULL)
        device, size = record["config"]["device"], 512 * sectors

        def of(path, device=device):
            return quantity(device, path)

        def message(payload, device=device):
            return message_time(device, payload)

        assert of("nvme/notice") == "interrupt" and not of("dram/read_data")
        steps = {
            "submission": of("nvme/host_submit"),
            "doorbell": message(of("link/doorbell")) + of("nvme/doorbell"),
            "entry": message(of("link/read_request")) + of("nvme/command_fetch")
                     + message(of("link/submission_entry")),
            "firmware": of("controller/command_cost") + of("controller/lookup_cost"),
            "array": of("flash/read_command/bus") + of("flash/t_read")
                     + of("flash/read_command/ready"),
            "channel": bus_time(device, read_transfer(device, size)),
            "data": message(size),
            "completion entry": message(of("link/completion_entry")),
            "interrupt": message(of("link/interrupt")) + of("nvme/completion"),
            "host": of("nvme/host_complete"),
        }
        expected = sum(steps.values())
        found = round(metrics_of(record)["read/latency_max"] * 1e12)
        assert found == expected, f"{size} B: {found} ps instead of {expected} ps: {steps}"
        bucket, = record["histograms"]["read"]["buckets"]
        assert bucket["first_ps"] <= expected <= bucket["last_ps"]


def check_bandwidth_is_below_its_limits(folder):
    """Neither the link nor the channels carry more than they can; with enough outstanding reads the
    tighter of the two is nearly reached."""
    for name, size, least_share in (("random_read_16k", 2**14, 0.9),
                                    ("sequential_read", 2**17, 0.99)):
        record = record_of(folder, WORKLOADS / f"{name}.json", *SSD, "--max-requests", 50_000)
        device = record["config"]["device"]
        page = quantity(device, "flash/page_size")
        link = size * 10**12 / message_time(device, size)
        page_time = (quantity(device, "flash/read_command/bus")
                     + bus_time(device, read_transfer(device, page)))
        channels = quantity(device, "flash/channels") * page * 10**12 / page_time
        found = metrics_of(record)["read/bandwidth"]
        limit = min(link, channels)
        assert found <= limit, f"{name}: {found:.4g} B/s above {limit:.4g}"
        assert found >= least_share * limit, f"{name}: {found:.4g} B/s, far below {limit:.4g}"


def check_a_full_drive_is_a_result(folder):
    """With nearly no spare flash a full drive cannot take random writes."""
    text = replay(folder, WORKLOADS / "random_write_steady.json", *SMALL_SSD,
                  "--set", "ftl/overprovisioning_ratio=0.001",
                  "--set", "workload/preconditioning/pattern=sequential",
                  "--set", "workload/preconditioning/rounds_at_most=0", "--out", "out")
    assert re.search(r"^drive_full: .*plane \d+", text, re.MULTILINE), text
    record = json.loads((folder / "out" / "replay.json").read_text())
    assert record["status"] == "drive_full" and "plane" in record["status_detail"], record["status"]


def check_reads_without_data_are_noted(folder):
    record = record_of(folder, FIXTURES / "small.block.trace", *SSD)
    assert any("--precondition" in note for note in record["notes"]), record["notes"]
    record = record_of(folder, FIXTURES / "small.block.trace", *SSD, "--precondition", "0.01")
    assert not record["notes"], record["notes"]


def check_interruption_leaves_nothing(folder):
    command = [BINARY, "replay", WORKLOADS / "random_read_16k.json", *SSD, "--out", "out",
               "--set", "workload/length/requests=1000000000"]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    time.sleep(0.3)
    assert process.poll() is None, "it ended before it was interrupted"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, process.returncode
    assert printed == b"" and contents(folder) == {}, contents(folder).keys()


def check_workloads_and_schema(folder):
    done = subprocess.run([BINARY, "schema", "--workload"], env=environment(), check=True,
                          capture_output=True, text=True)
    file = SOURCE / "configs" / "schema" / "workload.schema.json"
    assert done.stdout == file.read_text(encoding="utf-8"), (
        f"{file} is not what the program says; run: nearkv schema --workload > {file}")
    names = [path.stem for path in sorted(WORKLOADS.glob("*.json"))]
    assert len(names) >= 4, names
    for name in names:
        record = record_of(folder, WORKLOADS / f"{name}.json", *SMALL_SSD, "--max-requests", 2000)
        assert record["name"] == name and record["config"]["workload"]["name"] == name
        total = sum(histogram["count"] for histogram in record["histograms"].values())
        assert record["status"] == "ok" and total == 2000, (name, record["status"], total)


def check_a_real_trace(folder):
    if not TPCC.exists():
        return
    record = record_of(folder, TPCC, *SSD, *FULL)
    assert {k: v["count"] for k, v in record["histograms"].items()} == {"read": 4381, "write": 2618}


def main():
    checks = [
        check_fixtures_are_what_the_script_makes,
        check_formats,
        check_pages_of_a_csd,
        check_files,
        check_line_ends_and_pipes,
        check_one_read_on_an_idle_drive,
        check_bandwidth_is_below_its_limits,
        check_a_full_drive_is_a_result,
        check_reads_without_data_are_noted,
        check_interruption_leaves_nothing,
        check_workloads_and_schema,
        check_a_real_trace,
    ]
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    print(f"{len(checks)} checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
