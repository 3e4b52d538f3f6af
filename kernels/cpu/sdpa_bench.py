#!/usr/bin/env python3
"""Speed of the CPU kernels against PyTorch's scaled_dot_product_attention, in one run.

    sdpa_bench.py [--shared-object FILE] [--threads N] [--out FILE.json]

Needs PyTorch (PyPI) and libnearkv_kernels.so (cmake target nearkv_kernels_shared). Both get the
same K, V and queries, and the same threads; PyTorch is timed with FP16, which is what the kernels
read, and with FP32 and BF16 tensors of the same values, and counts with the fastest of them. The
KV cache is well beyond the processor's caches. Times are medians over interleaved runs.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "validation" / "accuracy"))
from kernels import Kernels, method  # noqa: E402

D_HEAD = 128
CACHE_BYTES = 256 << 20  # K and V of all heads, FP16
POINTS = [(1024, 1), (4096, 1), (8192, 1), (8192, 4)]  # context, query heads a KV head


class Batch:
    """Heads of one context, as many as fill CACHE_BYTES, for both sides."""

    def __init__(self, kernels, context, queries):
        heads = max(1, CACHE_BYTES // (context * D_HEAD * 4))
        generator = torch.Generator().manual_seed(1)
        shape = (heads, 1, context, D_HEAD)
        self.k = torch.randn(shape, generator=generator).half()
        self.v = torch.randn(shape, generator=generator).half()
        self.q = torch.randn((heads, queries, 1, D_HEAD), generator=generator).half()
        self.caches = [kernels.cache(D_HEAD) for _ in range(heads)]
        for head, cache in enumerate(self.caches):
            kernels.append([cache], self.k[head].float().numpy(), self.v[head].float().numpy())
        self.queries = self.q[:, :, 0].float().numpy()


def sdpa(batch, dtype):
    """One call of PyTorch; KV heads are expanded without a copy."""
    q, k, v = (tensor.to(dtype) for tensor in (batch.q, batch.k, batch.v))
    heads = (q.shape[0], q.shape[1])
    k, v = (tensor.expand(*heads, *tensor.shape[2:]) for tensor in (k, v))

    def call():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return call


def timed(calls, repeats=9):
    """Median seconds of each call; they take turns, so that all see the same machine."""
    times = {name: [] for name in calls}
    for name, call in calls.items():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(kernels, context, queries):
    batch = Batch(kernels, context, queries)
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    calls = {f"sdpa_{name}": sdpa(batch, dtype) for name, dtype in dtypes.items()}
    dense = method("dense")
    sparf = method("sparf", r=D_HEAD // 8, k=context // 16, local_window=0)
    calls["dense"] = lambda: kernels.attend(batch.caches, batch.queries, dense)
    calls["sparf"] = lambda: kernels.attend(batch.caches, batch.queries, sparf)
    exact = calls["sdpa_fp32"]()[:, :, 0].numpy()
    difference = float(numpy.abs(calls["dense"]().output - exact).max())
    times = timed(calls)
    fastest = min(times[f"sdpa_{name}"] for name in dtypes)
    return {"context": context, "queries_a_kv_head": queries, "kv_heads": len(batch.caches),
            "seconds": times, "largest_difference_to_sdpa_fp32": difference,
            "kv_GBps": batch.k.numel() * 4 / times["dense"] / 1e9,
            "dense_over_sdpa": fastest / times["dense"],
            "sparf_over_dense": times["dense"] / times["sparf"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared-object", metavar="FILE", help="libnearkv_kernels.so")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kernels = Kernels(arguments.shared_object, arguments.threads)
    result = {"torch": torch.__version__, "machine": platform.machine(),
              "threads": arguments.threads, "rows": []}
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, d_head {D_HEAD}; "
          "times in ms, KV of all heads 256 MiB")
    print("context  queries   dense  GB/s   SDPA fp16  bf16  fp32   faster than SDPA  "
          "SparF 1/8  faster than dense")
    for context, queries in POINTS:
        row = measure(kernels, context, queries)
        result["rows"].append(row)
        ms = {name: seconds * 1e3 for name, seconds in row["seconds"].items()}
        print(f"{context:7} {queries:8} {ms['dense']:7.1f} {row['kv_GBps']:5.1f} "
              f"{ms['sdpa_fp16']:11.1f} {ms['sdpa_bf16']:5.1f} {ms['sdpa_fp32']:5.1f} "
              f"{row['dense_over_sdpa']:17.2f}x {ms['sparf']:10.1f} "
              f"{row['sparf_over_dense']:17.2f}x", flush=True)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
