"""The Gantt chart is drawn from timelines, the same bytes each time, and shows what they say."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PLOTS = Path(__file__).resolve().parent
SKIPPED = 77


def timeline(length, tracks):
    """A trace: the driver has layer 1 from 10 us on, tracks have (begin, end, busy) in it."""
    events = []

    def track(number, name, slices):
        events.append({"ph": "M", "pid": 1, "tid": number, "name": "thread_name",
                       "args": {"name": name}})
        for what, begin, end, busy in slices:
            events.append({"ph": "B", "pid": 1, "tid": number, "ts": begin, "name": what,
                           "args": {} if busy is None else {"busy_us": busy}})
            events.append({"ph": "E", "pid": 1, "tid": number, "ts": end})

    track(1, "driver", [("layer 0", 0, 10, None), ("layer 1", 10, 10 + length, None)])
    for number, (name, slices) in enumerate(tracks.items(), 2):
        track(number, name, [("work", *one) for one in slices])
    return json.dumps({"traceEvents": events})


def write_data(folder):
    (folder / "a.json").write_text(timeline(100, {
        "gpu/0/compute": [(10, 30, None)],
        "csd/0/flash/channel/0": [(30, 110, 60)],
        "csd/0/flash/channel/1": [(30, 70, None)],
        "csd/0/flash/channel/1/dies": [(30, 70, 900)],
    }))
    (folder / "b.json").write_text(timeline(400, {
        "host/cores": [(20, 400, None)], "host/cores #2": [(20, 200, None)],
        "ssd": [(0, 300, None)], "gpu/0/compute": [(0, 5, None)],
    }))
    (folder / "list.csv").write_text(
        "system,layer,timeline\ninsti_dense,1,a.json\nflexgen,1,b.json\n")
    return folder / "list.csv"


def draw(data, stem):
    command = [sys.executable, "-B", str(PLOTS / "gantt.py"), str(data), str(stem)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ),
                          check=False)


def check_pictures(folder):
    data = write_data(folder)
    for stem in ("first", "second"):
        done = draw(data, folder / stem)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", f"a warning: {done.stderr}"
    for ending in ("pdf", "png"):
        first, second = [(folder / f"{stem}.{ending}").read_bytes() for stem in ("first", "second")]
        assert len(first) > 2000, f"{ending}: only {len(first)} bytes"
        assert first == second, f"{ending}: two runs differ"


def check_shares(folder):
    """What is drawn, by the numbers of the fixtures above."""
    sys.path.insert(0, str(PLOTS))
    import gantt

    write_data(folder)
    tracks = gantt.read_timeline(folder / "a.json")
    begin, end = gantt.layer_of(tracks, 1)
    assert abs(begin - 10e-6) < 1e-12 and abs(end - 110e-6) < 1e-12
    rows = {label: share for label, _, share, _ in gantt.rows_of(tracks, begin, end)}
    assert list(rows) == ["GPU", "CSD flash channels (2)"], list(rows)
    assert abs(rows["GPU"].mean() - 0.2) < 1e-3, rows["GPU"].mean()
    assert abs(rows["CSD flash channels (2)"].mean() - (60 + 40) / 200) < 1e-3
    tracks = gantt.read_timeline(folder / "b.json")
    rows = {label: share for label, _, share, _ in
            gantt.rows_of(tracks, *gantt.layer_of(tracks, 1))}
    # The GPU has worked before the layer.
    assert list(rows) == ["host cores (2 used)", "SSD commands"], list(rows)
    assert abs(rows["host cores (2 used)"].mean() - (380 + 180) / 800) < 1e-3
    assert abs(rows["SSD commands"].mean() - 290 / 400) < 1e-3


def check_missing_layer(folder):
    data = write_data(folder)
    data.write_text("system,layer,timeline\ninsti_dense,7,a.json\n")
    done = draw(data, folder / "x")
    assert done.returncode != 0 and "no layer 7" in done.stderr, done.stderr
    assert not (folder / "x.png").exists()


def main():
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        print("skipped: matplotlib is missing; install the Debian package python3-matplotlib")
        return SKIPPED
    for check in (check_pictures, check_shares, check_missing_layer):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
