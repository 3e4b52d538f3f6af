"""`nearkv record` from end to end: its trace read back by a reader of its own, replayed, and run.

Needs NEARKV_BINARY and NEARKV_SOURCE. The reader below follows the comment in
traces/kv_page_trace.hpp alone. What a wrong trace prints is bad_traces_check.py's.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BINARY = os.environ["NEARKV_BINARY"]
SOURCE = Path(os.environ["NEARKV_SOURCE"]).resolve()
SYNTHETIC = "nearkv:kv_sources/synthetic_smollm2.json"
CAPTURES = sorted((SOURCE / "traces" / "fixtures").glob("*.safetensors"))
CSD = "nearkv:platforms/csds/instinfer_emulated.json"
POINT = SOURCE / "configs" / "design_points" / "insti_sparf_opt13b_a6000.json"
METHODS = ("dense", "sparq", "sparf", "h2o", "streaming", "window")

OK, USER_ERROR = 0, 2


def nearkv(folder, *arguments, status=OK):
    """Runs the program in a folder; returns (stdout, stderr)."""
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    assert done.returncode == status, (
        f"{command}: status {done.returncode} instead of {status}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


# -- A reader of KV page traces -----------------------------------------------------------------


def fnv1a64(data, state=0xcbf29ce484222325):
    for byte in data:
        state = (state ^ byte) * 0x100000001b3 % 2**64
    return state


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def byte(self):
        self.at += 1
        return self.data[self.at - 1]

    def number(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    def signed(self):
        twice = self.number()
        return -(twice + 1) // 2 if twice % 2 else twice // 2

    def bits(self):
        while True:
            byte = self.byte()
            for i in range(8):
                yield byte >> i & 1

    def page_set(self, pages, before):
        control, count, rice = self.byte(), self.number(), None
        rice, listed, page, bits = control & 15, set(), -1, self.bits()
        for _ in range(count):
            while not next(bits):
                page += 1 << rice
            page += 1 + sum(next(bits) << i for i in range(rice))
            listed.add(page)
        if control & 0x20:
            listed ^= {page for page in before if page < pages}
        return set(range(pages)) - listed if control & 0x10 else listed


def read_trace(file):
    """The header and the records, each a dictionary with sets of pages."""
    line, check, data = file.read_bytes().split(b"\n", 2)
    header = json.loads(line)
    assert header["version"] == 2 and int(check, 16) == fnv1a64(line + b"\n")
    method = json.dumps({name: header[name] for name in ("method", "options")},
                        separators=(",", ":"))
    assert int(header["method_hash"], 16) == fnv1a64(method.encode()), method
    groups = header["d_head"] // header["channels_per_group"]
    chunk = header["page_size"] // 2 // header["channels_per_group"]
    file_bytes, records, last, state = Bytes(data), [], {}, fnv1a64(b"")
    place, context, attended = -1, 0, 0
    for _ in range(header["records"]):
        begin = file_bytes.at
        length = file_bytes.number()
        body = Bytes(data[file_bytes.at:file_bytes.at + length])
        file_bytes.at += length
        state = fnv1a64(data[begin:file_bytes.at], state)
        folded = (state ^ state >> 16 ^ state >> 32 ^ state >> 48) % 2**16
        assert folded == file_bytes.byte() + 256 * file_bytes.byte(), f"record at {begin}"
        flags = body.byte()
        place += 1 + (body.number() if flags & 1 else 0)
        context += body.signed() if flags & 2 else 0
        attended += body.signed() if flags & 4 else 0
        rest, head = divmod(place, header["kv_heads"])
        rest, sequence = divmod(rest, header["sequences"])
        step, layer = divmod(rest, header["layers"])
        old = last.get((layer, sequence, head), (set(), set(), set()))
        chunks, channels = context // chunk, set()
        if flags & 0x18 == 0x18:
            chosen = body.page_set(groups, {page for page in old[0] if page < groups})
            channels = {i * groups + group for i in range(chunks) for group in chosen}
        elif flags & 8:
            channels = body.page_set(chunks * groups, old[0])
        full = context // header["tokens_per_group"]
        keys = body.page_set(full, old[1])
        values = body.page_set(full, old[2]) if flags & 0x20 else keys
        assert body.at == len(body.data)
        last[layer, sequence, head] = channels, keys, values
        records.append({"step": step, "layer": layer, "sequence": sequence, "kv_head": head,
                        "context": context, "attended": attended, "channels": channels,
                        "keys": keys, "values": values, "full": full, "chunks": chunks})
    assert file_bytes.at == len(data) and int(header["records_hash"], 16) == state
    return header, records


def pages_of(record):
    return len(record["channels"]) + len(record["keys"]) + len(record["values"])


# -- Checks -----------------------------------------------------------------------------------


def mean_of_heads(records, value):
    """The mean over heads of the mean over steps, as the statistics have it."""
    heads = {}
    for record in records:
        heads.setdefault((record["layer"], record["kv_head"]), []).append(value(record))
    return sum(sum(steps) / len(steps) for steps in heads.values()) / len(heads)


def check_statistics(statistics, records):
    """The shares of pages in the statistics are those of the trace."""
    found = statistics["over_heads"]
    cases = {
        "token_page_share": lambda record: len(record["keys"]) / record["full"],
        "page_volume": lambda record: pages_of(record) / (2 * record["full"]),
    }
    for name, value in cases.items():
        expected = mean_of_heads(records, value)
        assert abs(found[name]["mean"] - expected) < 1e-12, (name, found[name], expected)
    assert len(statistics["heads"]) * len(statistics["contexts"]) == len(records)
    assert 0 < found["mass_kept"]["least"] <= found["mass_kept"]["most"] <= 1


def record_twice(folder, source, *arguments):
    """The trace, its records and the statistics; a second call gives equal bytes."""
    for name in ("one", "two"):
        printed, errors = nearkv(folder, "record", source, *arguments, "--json", "--out",
                                 f"{name}.kv.trace", "--stats", f"{name}.json")
        assert errors == "" and printed == (folder / f"{name}.json").read_text()
    for ending in (".kv.trace", ".json"):
        assert (folder / f"one{ending}").read_bytes() == (folder / f"two{ending}").read_bytes()
    header, records = read_trace(folder / "one.kv.trace")
    return header, records, json.loads(printed)


def check_replay(folder, records, arguments=()):
    """A CSD and an SSD read as many pages as the trace has."""
    for device, more in ((CSD, arguments),
                         ("nearkv:platforms/ssds/samsung_980_pro_2tb.json",
                          ("--closed-loop", 32))):
        text, _ = nearkv(folder, "replay", "one.kv.trace", "--device", device, "--json", *more)
        replayed = json.loads(text)
        metrics = {metric["name"]: metric["value"] for metric in replayed["metrics"]}
        pages = sum(map(pages_of, records))
        if device == CSD:
            assert metrics["drive/flash/pages_read"] == pages, (metrics, pages)
            assert metrics["attend_commands"] == len(records)
        else:
            assert replayed["histograms"]["read"]["count"] == pages


def check_methods(folder):
    for method in METHODS:
        header, records, statistics = record_twice(
            folder, SYNTHETIC, "--method", method, "--kv-heads", 3, "--layers", 2,
            "--queries-per-kv-head", 2, "--context", 700, "--steps", 3)
        assert header["method"] == statistics["method"]["name"] == method
        assert len(records) == 3 * 2 * 3 and {r["context"] for r in records} == {698, 699, 700}
        check_statistics(statistics, records)
        check_replay(folder, records)
        text, _ = nearkv(folder, "record", SYNTHETIC, "--method", method, "--kv-heads", 1,
                         "--context", 700, "--steps", 1)
        assert method in text and "mass kept" in text, text


def check_a_run(folder):
    """A design point reads the recorded pages, layers and heads in turn, and says so."""
    header, records, _ = record_twice(folder, SYNTHETIC, "--kv-heads", 5, "--layers", 2,
                                      "--contexts", "97:104")
    assert {r["context"] for r in records} == {97}, "no page becomes full from 98 to 104"
    source = json.dumps({"kind": "trace", "trace": "one.kv.trace"})
    small = ["--set", "model/layers=3", "--set", "workload/batch=2",
             "--set", "workload/prompt_tokens=96", "--set", "workload/output_tokens=9",
             "--set", "simulation/fidelity=exact", "--set", f"system/kv_source={source}"]
    text, _ = nearkv(folder, "run", POINT, "--json", "--out", "one", *small)
    result = json.loads(text)
    assert any(header["records_hash"] in note and "one.kv.trace" not in note
               for note in result["notes"]), result["notes"]
    # Contexts 97 to 104 have equally many full pages, so that each step reads the records of 97:
    # layers 0 and 2 those of layer 0, layer 1 those of layer 1; 80 heads those of 5 in turn.
    layers = [sum(pages_of(r) for r in records if r["layer"] == layer) for layer in (0, 1)]
    expected = 8 * (2 * layers[0] + layers[1]) * 80 // 5 * 4096
    read, = (metric["value"] for metric in result["metrics"]
             if metric["name"] == "decode_traffic/csd/0/flash/read")
    assert read == expected, (read, expected)
    again, _ = nearkv(folder, "run", POINT, "--json", "--out", "two", *small)
    assert text == again
    _, errors = nearkv(folder, "run", POINT, *small, "--set", "workload/output_tokens=60",
                       status=USER_ERROR)
    assert "/system/kv_source/trace: " in errors and "record with --contexts 97:155" in errors


def check_interruption_leaves_nothing(folder):
    process = subprocess.Popen(
        [BINARY, "record", SYNTHETIC, "--method", "h2o", "--context", "20000", "--steps", "1",
         "--out", "a.kv.trace", "--stats", "a.json"], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "NEARKV_HOME": str(SOURCE)})
    time.sleep(0.3)
    assert process.poll() is None, "it ended before it was interrupted"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT and printed == b"", process.returncode
    assert not list(folder.iterdir())


def check_captures(folder):
    """What the fixture of traces/capture.py gives, also with each query head on its own."""
    for capture in CAPTURES:
        for arguments in ((), ("--query-heads-apart",), ("--method", "h2o")):
            header, records, statistics = record_twice(folder, capture, "--page-size", "2KiB",
                                                       *arguments)
            assert header["source_kind"] == "captured" and header["source"] == capture.name
            assert statistics["source"]["text"]
            check_statistics(statistics, records)
            check_replay(folder, records, ("--set", "flash/page_size=2KiB"))


def main():
    checks = [check_methods, check_a_run, check_interruption_leaves_nothing, check_captures]
    for check in checks:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    print(f"{len(checks)} checks passed, {len(CAPTURES)} captures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
