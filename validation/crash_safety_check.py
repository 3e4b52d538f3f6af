"""A sweep's results after kill -9, damage, read-only disks and a clock that jumps: the same bytes,
or a refusal.

Usage: crash_safety_check.py [KILLS [DAMAGES [CLOCKS]]]
(the tests take few; 200 200 100 takes some minutes)
Needs NEARKV_BINARY.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEARKV = os.environ["NEARKV_BINARY"]
WORKERS = 4
REFUSED = 2
# What a damaged journal may be called; anything else, a crash above all, is an error.
REASONS = ("is damaged or no file of results", "is no file of results", "has format",
           "cannot be resumed", "cannot be written", "disk I/O error", "locking protocol")

SWEEP = {
    "title": "a test",
    "point": {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json",
              "workload": {"prompt_tokens": 256, "output_tokens": 64}},
    "axes": [{"path": "/csd/0/flash/channels", "values": [4, 8, 16]},
             {"path": "/workload/batch", "range": {"from": 4, "to": 43, "step": 1}}],
}
POINTS = 120


def command(sweep, out, *more):
    return [NEARKV, "sweep", str(sweep), "--out", str(out), "--jobs", str(WORKERS), "--cache", "",
            *more]


def run(sweep, out, *more, environment=None):
    return subprocess.run(command(sweep, out, *more), capture_output=True, text=True, check=False,
                          errors="replace", timeout=120, env=environment)


def table(out):
    return (out / "sweep/points.csv").read_bytes()


def check_kills(folder, sweep, whole, count):
    """kill -9 at random moments, on until the sweep is whole, and again from the beginning."""
    moments = random.Random(1)
    out = folder / "killed"
    started = 0
    for _ in range(count):
        child = subprocess.Popen(command(sweep, out, "--resume"), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, 0.5))
        child.send_signal(signal.SIGKILL)
        child.wait()
        status = run(sweep, out, "--status", "--json")
        done = json.loads(status.stdout)["done"] if status.returncode in (0, 75) else 0
        assert status.returncode in (0, 75) or "has no results" in status.stderr, status
        if done == POINTS:
            check_same(sweep, out, whole)
            shutil.rmtree(out)
            started += 1
    check_same(sweep, out, whole)
    return started


def check_same(sweep, out, whole):
    done = run(sweep, out, "--resume")
    assert done.returncode == 0, done
    assert table(out) == whole, "the table differs"


def damaged_copy(source, target, change):
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    (target / "sweep/points.csv").unlink(missing_ok=True)
    return change(target / "sweep/journal.sqlite")


def flip_bit(generator):
    def change(file):
        log = Path(f"{file}-wal")
        chosen = log if log.exists() and log.stat().st_size and generator.random() < 0.5 else file
        content = bytearray(chosen.read_bytes())
        at = generator.randrange(len(content) * 8)
        content[at // 8] ^= 1 << at % 8
        chosen.write_bytes(content)
        return f"{chosen.name} bit {at}"
    return change


def cut_off(generator):
    def change(file):
        size = generator.randrange(file.stat().st_size)
        os.truncate(file, size)
        return f"cut to {size} bytes"
    return change


def check_damages(folder, sweep, whole, count):
    """Returns how many of the damaged journals were refused."""
    generator = random.Random(2)
    part = folder / "part"  # one that ended early leaves a write-ahead log
    child = subprocess.Popen(command(sweep, part), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    log = part / "sweep/journal.sqlite-wal"
    while not log.exists() or log.stat().st_size < 200_000:
        time.sleep(0.01)
    child.kill()
    child.wait()
    refused = 0
    for i in range(count):
        source = (folder / "whole", part)[i % 2]
        change = flip_bit(generator) if i % 4 < 3 else cut_off(generator)
        target = folder / "damaged"
        what = damaged_copy(source, target, change)
        done = run(sweep, target, "--resume")
        if done.returncode == 0:
            assert table(target) == whole, f"the table is wrong: {what}"
        else:
            refused += 1
            assert done.returncode == REFUSED, (what, done)
            assert any(reason in done.stderr for reason in REASONS), (what, done)
    return refused


def check_read_only(folder, sweep):
    disk = folder / "read_only"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        return "not tried: no file system can be mounted here"
    try:
        shutil.copytree(folder / "whole", disk, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for more in ("--resume", "--again", "--status"):
            done = run(sweep, disk, more)
            assert done.returncode == REFUSED, done
            assert "is not writable; name another folder" in done.stderr, done
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return "refused"


def jumping_clock(folder):
    """A library that makes the wall clock of a program jump by hours; None without a compiler."""
    library = folder / "jumping_clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    if not shutil.which("gcc"):
        return None
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    # It must be seen to work: clocks that differ, none of them right.
    told = [float(subprocess.run([sys.executable, "-c", "import time; print(time.time())"],
                                 check=True, capture_output=True,
                                 env=clock_environment(library, number)).stdout)
            for number in range(4)]
    assert min(abs(one - time.time()) for one in told) > 1, "the clock is right"
    assert max(told) - min(told) > 3600, "the clocks agree"
    return library


def sanitizer_libraries():
    """What NearKV is linked with; their calls must come before those of other libraries."""
    linked = subprocess.run(["ldd", NEARKV], capture_output=True, text=True, check=True).stdout
    return re.findall(r"=> (\S+/lib(?:asan|tsan)\.so\S*)", linked)


def clock_environment(library, number, sanitizers=()):
    return {**os.environ, "LD_PRELOAD": ":".join([*sanitizers, str(library)]),
            "NEARKV_CLOCK": str(number)}


def check_clock(folder, sweep, whole, count):
    """Killed and resumed while the wall clock jumps: the table of the clock that is right."""
    library = jumping_clock(folder)
    if library is None:
        return "not tried: gcc is missing"
    sanitizers = sanitizer_libraries()
    moments = random.Random(3)
    out = folder / "clock"
    finished = 0
    for number in range(count):
        child = subprocess.Popen(command(sweep, out, "--resume"), stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL,
                                 env=clock_environment(library, number, sanitizers))
        try:
            child.wait(moments.uniform(0, 2))
        except subprocess.TimeoutExpired:
            child.kill()
        if child.wait() == 0:
            assert table(out) == whole, f"the table differs with clock {number}"
            shutil.rmtree(out)
            finished += 1
        else:
            assert child.returncode == -signal.SIGKILL, f"clock {number}: {child.returncode}"
    done = run(sweep, out, "--resume", environment=clock_environment(library, count, sanitizers))
    assert done.returncode == 0, done
    assert table(out) == whole, "the table differs after the clock jumped"
    check_same(sweep, out, whole)
    return f"the same table {finished + 1} times"


def main():
    kills, damages, clocks = (
        int(word) for word in sys.argv[1:] + ["15", "40", "6"][len(sys.argv) - 1:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sweep = folder / "sweep.json"
        sweep.write_text(json.dumps(SWEEP), encoding="utf-8")
        done = run(sweep, folder / "whole")
        assert done.returncode == 0, done
        whole = table(folder / "whole")
        finished = check_kills(folder, sweep, whole, kills)
        refused = check_damages(folder, sweep, whole, damages)
        print(f"{kills} kills (the sweep was whole {finished} times on the way): the same table; "
              f"{damages} damaged journals: {refused} refused, {damages - refused} the same table; "
              f"read-only: {check_read_only(folder, sweep)}; {clocks} times ended or killed while "
              f"the clock jumps: {check_clock(folder, sweep, whole, clocks)}")


if __name__ == "__main__":
    main()
