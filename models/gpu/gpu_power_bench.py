#!/usr/bin/env python3
"""Power of a GPU while it waits and while it runs an LLM's operators, by nvidia-smi.

    gpu_power_bench.py [--json FILE] [--seconds N]

Needs PyTorch with CUDA. Each state is held for N seconds (14); power.draw.instant is read all the
time but for the first four, in which clocks and temperature settle. The last state tells whether
the first ones had settled.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import threading
import time

SETTLING = 4
QUERY = ("power.draw.instant", "clocks.sm", "power.limit", "name", "driver_version")


def query():
    """The values of QUERY."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [value.strip() for value in line.splitlines()[0].split(",")]


def measure(state, work, unit, seconds):
    """Holds a state and returns its row; work() does some and returns its amount."""
    end = time.time() + seconds
    readings = []

    def read():
        time.sleep(SETTLING)
        while time.time() < end - 0.5:
            readings.append(query())

    reader = threading.Thread(target=read)
    reader.start()
    done = 0
    begin = time.time()
    while time.time() < end:
        done += work()
    elapsed = time.time() - begin
    reader.join()
    watts = sorted(float(reading[0]) for reading in readings)
    row = {"state": state, "median_w": statistics.median(watts),
           "p10_w": watts[len(watts) // 10], "p90_w": watts[9 * len(watts) // 10],
           "readings": len(watts), "sm_mhz": int(readings[-1][1])}
    if unit:
        row["rate"] = done / elapsed
        row["rate_unit"] = unit
    print(json.dumps(row), flush=True)
    return row


def wait():
    time.sleep(0.05)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--seconds", type=float, default=14)
    options = parser.parse_args()
    rows = [measure("no context", wait, "", options.seconds)]

    import torch  # pylint: disable=import-outside-toplevel  # makes no context, but may later

    half = {"device": "cuda", "dtype": torch.float16}
    source = torch.randn(1 << 30, **half)
    target = torch.empty_like(source)
    weights = [torch.randn(5120, 20480, **half) for _ in range(40)]
    queries = torch.randn(16, 40, 1, 128, **half)
    keys = torch.randn(16, 40, 2048, 128, **half)
    values = torch.randn(16, 40, 2048, 128, **half)

    def repeated(call, amount):
        def work():
            for _ in range(50):
                call()
            torch.cuda.synchronize()
            return 50 * amount
        return work

    def gemms(rows_of_input):
        tokens = torch.randn(rows_of_input, 5120, **half)

        def work():
            for matrix in weights:
                tokens @ matrix  # pylint: disable=pointless-statement
            torch.cuda.synchronize()
            return len(weights) * 2 * rows_of_input * 5120 * 20480
        return work

    def attend():
        torch.nn.functional.scaled_dot_product_attention(queries, keys, values)

    torch.cuda.synchronize()
    rows.append(measure("context, idle", wait, "", options.seconds))
    copy = repeated(lambda: target.copy_(source), 4 * source.numel())
    rows.append(measure("copy in GPU memory", copy, "B/s", options.seconds))
    for tokens in (8, 64, 4096):
        rows.append(measure(f"GEMM, {tokens} rows", gemms(tokens), "FLOP/s", options.seconds))
    attention = repeated(attend, 4 * keys.numel())
    rows.append(measure("decode attention", attention, "B/s", options.seconds))
    rows.append(measure("context, idle again", wait, "", options.seconds))

    _, _, limit, name, driver = query()
    document = {"device": name, "driver": driver, "torch": torch.__version__,
                "date": datetime.date.today().isoformat(), "command": "gpu_power_bench.py --json",
                "limit_w": float(limit), "rows": rows}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
