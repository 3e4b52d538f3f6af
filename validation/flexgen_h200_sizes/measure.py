#!/usr/bin/env python3
"""Measures FlexGen with dummy weights: rows for `nearkv validate --suite flexgen_h200 --points`.

    measure.py FLEXGEN_CHECKOUT ROWS.json [--models opt-125m,opt-1.3b]

FLEXGEN_CHECKOUT is a checkout of FlexLLMGen (rows.json was made with commit 004ffef). Needs one
CUDA GPU, PyTorch and transformers. A run appends to what ROWS.json has: call it on several machines
of a kind; the value of a row is the smallest of the runs' medians.
"""

import argparse
import gc
import json
import statistics
import sys
from pathlib import Path

import numpy as np

ON_GPU = [100, 0, 100, 0, 100, 0]
CACHE_ON_CPU = [100, 0, 0, 100, 100, 0]
CACHE_ON_DISK = [100, 0, 0, 0, 100, 0]
ALL_ON_CPU = [0, 100, 0, 100, 100, 0]


def row(percent, gbs, prompt, gen, nb=1, cpu_attention=False, overlap=True):
    return {"percent": percent, "gbs": gbs, "nb": nb, "prompt": prompt, "gen": gen,
            "cpu_cache_compute": cpu_attention, "overlap": overlap, "sparsity": 1.0}


ROWS = {
    "opt-125m": [
        row(ON_GPU, 1, 128, 16), row(ON_GPU, 16, 512, 10), row(CACHE_ON_CPU, 1, 128, 10),
        row(CACHE_ON_CPU, 16, 512, 10), row(CACHE_ON_DISK, 16, 512, 6),
        row(CACHE_ON_CPU, 16, 512, 8, cpu_attention=True), row(ON_GPU, 4, 512, 8, nb=4),
        row(CACHE_ON_CPU, 4, 512, 8, nb=4)],
    "opt-1.3b": [
        row(ON_GPU, 1, 512, 12), row(ON_GPU, 16, 1024, 10), row(CACHE_ON_CPU, 1, 512, 10),
        row(CACHE_ON_CPU, 16, 512, 8), row(CACHE_ON_CPU, 64, 1024, 5),
        row([100, 0, 50, 50, 100, 0], 16, 512, 6), row(ALL_ON_CPU, 16, 512, 8),
        row([50, 50, 0, 100, 100, 0], 16, 512, 8), row([50, 50, 0, 100, 100, 0], 16, 512, 8, nb=4),
        row([0, 0, 0, 100, 100, 0], 16, 512, 5)],
    "opt-6.7b": [
        row(ON_GPU, 1, 512, 10), row(ON_GPU, 16, 512, 10), row(CACHE_ON_CPU, 1, 512, 8),
        row(CACHE_ON_CPU, 16, 512, 8), row(CACHE_ON_CPU, 16, 1024, 6),
        row(CACHE_ON_CPU, 4, 512, 6, nb=4), row(CACHE_ON_DISK, 16, 512, 4),
        row(CACHE_ON_CPU, 16, 512, 5, cpu_attention=True),
        row(CACHE_ON_CPU, 16, 512, 5, overlap=False), row(ALL_ON_CPU, 16, 512, 6)],
    "opt-13b": [
        row(ON_GPU, 1, 512, 8), row(ON_GPU, 16, 512, 8), row(CACHE_ON_CPU, 16, 512, 6),
        row(CACHE_ON_CPU, 32, 512, 5), row(CACHE_ON_DISK, 8, 512, 4),
        row(CACHE_ON_CPU, 8, 512, 5, cpu_attention=True)],
}


class Runner:
    """One process measures all rows; weights stay where they are between rows of one placement."""

    def __init__(self, offload_folder):
        from flexllmgen import flex_opt
        self.flex = flex_opt
        self.gpu = flex_opt.TorchDevice("cuda:0")
        self.cpu = flex_opt.TorchDevice("cpu")
        self.disk = flex_opt.TorchDisk(offload_folder)
        self.env = flex_opt.ExecutionEnv(
            gpu=self.gpu, cpu=self.cpu, disk=self.disk,
            mixed=flex_opt.TorchMixedDevice([self.gpu, self.cpu, self.disk]))
        self.model = None
        self.placement = None

    def policy(self, r):
        packed = {"num_bits": 4, "group_size": 64, "symmetric": False}
        config = self.flex.CompressionConfig
        return self.flex.Policy(r["gbs"], r["nb"], *r["percent"], r["overlap"], True, True,
                                r["cpu_cache_compute"], 1.0, False, config(group_dim=0, **packed),
                                False, config(group_dim=2, **packed))

    def take(self, name, r):
        import torch
        policy = self.policy(r)
        placement = (name, *r["percent"][:2])
        if placement != self.placement:
            self.model = None
            gc.collect()
            torch.cuda.empty_cache()
            self.model = self.flex.OptLM("facebook/" + name, self.env, "_DUMMY_", policy)
            self.placement = placement
        model = self.model
        model.policy, model.num_gpu_batches = policy, policy.num_gpu_batches
        for layer in model.layers:
            layer.policy = policy
            if hasattr(layer, "attention_compute"):
                layer.attention_compute = self.cpu if policy.cpu_cache_compute else self.gpu
        holder, layers, batches = self.flex.ValueHolder, model.num_layers, policy.num_gpu_batches
        for buffers in ("cache_home", "cache_read_buf", "cache_write_buf"):
            setattr(model, buffers, self.flex.array_2d(layers, batches, holder))
        model.attention_mask = self.flex.array_1d(batches, holder)

    def measure(self, name, r):
        self.take(name, r)
        numbers = np.random.default_rng(0)

        def prompts(tokens):
            return [[2, *map(int, numbers.integers(10, 50000, tokens - 1))]
                    for _ in range(r["gbs"] * r["nb"])]

        self.model.generate(prompts(32), max_new_tokens=1)
        self.flex.timers("generate").reset()
        self.model.generate(prompts(r["prompt"]), max_new_tokens=r["gen"])
        times = [float(f"{t:.6g}") for t in self.flex.timers("generate").costs]
        return {"prefill_s": times[0], "decode_s": times[1:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--models", default=",".join(ROWS))
    parser.add_argument("--offload", default="/tmp/flexgen_offload", help="folder for files")
    options = parser.parse_args()
    sys.path.insert(0, options.checkout)
    document = json.loads(options.rows.read_text()) if options.rows.exists() else {"rows": []}
    runner = Runner(options.offload)
    for name in options.models.split(","):
        for wanted in ROWS[name]:
            wanted = {"model": name, **wanted}
            known = [r for r in document["rows"] if all(r.get(k) == v for k, v in wanted.items())]
            if not known:
                document["rows"].append({**wanted, "role": "test", "runs": []})
            entry = known[0] if known else document["rows"][-1]
            entry["runs"].append(runner.measure(name, wanted))
            entry["decode_step_s"] = min(statistics.median(run["decode_s"])
                                         for run in entry["runs"])
            entry["prefill_best_s"] = min(run["prefill_s"] for run in entry["runs"])
            options.rows.write_text(json.dumps(document, indent=1) + "\n")
    runner.env.disk.close_copy_threads()


if __name__ == "__main__":
    main()
