"""Makes the KV page traces of the cases in this folder: right but for what each case is about."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1] / "traces" / "fixtures"))

from make_fixtures import kv_file, kv_header, kv_record, number  # noqa: E402

HEADER = {**kv_header("sparf", 600), "layers": 1, "kv_heads": 2, "steps": 1}
FIRST = kv_record(600, 37, (0, 0), [3, 9], [1, 2, 5])
SECOND = kv_record(600, 37, (600, 37), [0], [3])
SHARES = {"k_share": 1 / 16, "local_window_share": 0.25, "r": 16.0}
VERSION_1 = (b'{"format": "nearkv-kv-pages", "version": 1, "model": "fixture", "records": 1}\n'
             b"0 0 0 0 600 37 c:3,9 kv:1-2,5\n")


def with_header(**members):
    return kv_file({**HEADER, **members}, [FIRST, SECOND])


def changed(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1:]


def without(member):
    header = {name: value for name, value in HEADER.items() if name != member}
    return kv_file(header, [FIRST, SECOND])


def main():
    good = kv_file(HEADER, [FIRST, SECOND])
    first = 1 + len(FIRST) + 2
    second = 1 + len(SECOND) + 2
    traces = {
        "kv_cut_off": good[:-5],
        "kv_damaged_byte": changed(good, len(good) - second - first + 5, 0xff),
        "kv_depth_on_csd": good,
        "kv_head_left_out": kv_file(HEADER, [bytes([FIRST[0] | 1]) + number(1) + FIRST[1:]]),
        "kv_header_edited": good.replace(b'"fixture"', b'"fixtures"'),
        "kv_header_without_layers": without("layers"),
        "kv_larger_than_csd": with_header(layers=10**4, kv_heads=10**3, sequences=1),
        "kv_larger_than_drive": with_header(layers=10**6, kv_heads=10**3, sequences=1),
        "kv_method_hash_of_another": with_header(method_hash="0123456789abcdef"),
        "kv_no_depth_on_ssd": good,
        "kv_options_are_text": with_header(options={"r": "16"}),
        "kv_other_channels_per_group": kv_file(
            {**HEADER, "channels_per_group": 8}, [kv_record(600, 37, (0, 0), None, [1])] * 2),
        "kv_other_page_size": kv_file(
            {**HEADER, "page_size": 8192, "tokens_per_group": 32},
            [kv_record(600, 37, (0, 0), None, [1]), kv_record(600, 37, (600, 37), None, [1])]),
        "kv_other_version": VERSION_1,
        "kv_page_beyond_context": kv_file(
            HEADER, [kv_record(600, 37, (0, 0), [3], [37]), SECOND]),
        "kv_page_holds_other_tokens": with_header(tokens_per_group=32),
        "kv_place_behind_the_end": kv_file(HEADER, [FIRST, bytes([1]) + number(1) + SECOND[1:]]),
        "kv_record_missing": good[:-second],
        "kv_record_too_many": good + good[-second:],
        "kv_record_with_rest": kv_file(HEADER, [FIRST, SECOND + b"\0"]),
        "kv_records_hash_of_another": with_header(records_hash="0123456789abcdef"),
        "kv_time_scale": good,
        "kv_unknown_flag": kv_file(HEADER, [bytes([FIRST[0] | 0x40]) + FIRST[1:], SECOND]),
        "kv_unknown_method": with_header(method="sparse"),
        "run_trace_damaged": with_header(options=SHARES)[:-1] + b"x",
        "run_trace_of_other_channels": good,
        "run_trace_without_options": good,
        "run_trace_of_other_contexts": with_header(options=SHARES),
        "run_trace_of_other_heads": good,
        "run_trace_of_other_method": kv_file(
            {**HEADER, "method": "dense", "options": {}, "estimate_channels": 0},
            [kv_record(600, 600, (0, 0), None, [1]), kv_record(600, 600, (600, 600), None, [1])]),
    }
    for name, data in traces.items():
        folder = FOLDER / name
        folder.mkdir(exist_ok=True)
        (folder / "a.kv").write_bytes(data)
        command = folder / "command.txt"
        if not command.exists():
            command.write_text("replay a.kv --device "
                               "nearkv:platforms/csds/instinfer_emulated.json\n",
                               encoding="utf-8")


if __name__ == "__main__":
    main()
