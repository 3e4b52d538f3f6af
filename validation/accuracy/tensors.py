#!/usr/bin/env python3
"""How near each method comes to dense attention on captured tensors of a real model.

    tensors.py [CAPTURE.safetensors...] [--shared-object FILE] [--out FILE.json]

For each method and ratio (configurations.py), over all query heads and decode steps:

- error: ||o - o_dense|| / ||o_dense||, mean and median; o_dense is computed here, in double;
- kept mass: the attention probability, of dense attention, that the attended tokens have together;
- recall: of the n tokens that a head attends to, the share that is among its n most probable ones;
- traffic: see configurations.py, from the tokens that were attended.

Runs with the system's Python and numpy. Without a file it takes the one in traces/fixtures.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy

import captured
import configurations
import kernels
import provenance

FIXTURES = Path(__file__).resolve().parents[2] / "traces" / "fixtures"
USER_ERROR = 2


class DenseSteps:
    """Dense attention of the decode steps of one head, in double."""

    def __init__(self, capture, head):
        # What the cache stores, so that only the methods' errors are left.
        k, v = (numpy.float64(numpy.float16(tensor)) for tensor in (head.k, head.v))
        logits = numpy.float64(head.queries) @ k.T / math.sqrt(capture.d_head)
        unseen = numpy.arange(len(k)) >= capture.contexts()[:, None]
        logits[numpy.broadcast_to(unseen[:, None], logits.shape)] = -numpy.inf
        weight = numpy.exp(logits - logits.max(axis=-1, keepdims=True))
        self.probability = weight / weight.sum(axis=-1, keepdims=True)  # steps, group, tokens
        self.output = self.probability @ v
        # Place of each token in the order of probability; of equal ones the older token first.
        order = numpy.argsort(-self.probability, axis=-1, kind="stable")
        self.place = numpy.argsort(order, axis=-1, kind="stable")

    def compare(self, results):
        """{figure: [steps, group]} of what a method returned for these steps."""
        error = numpy.linalg.norm(results.output - self.output, axis=-1)
        attended = results.tokens >= 0
        # Behind the end of a list stands -1, which indexing takes for the last token.
        tokens = numpy.where(attended, results.tokens, 0)
        mass = numpy.take_along_axis(self.probability, tokens, axis=-1)
        count = results.token_counts[..., None]
        hits = (numpy.take_along_axis(self.place, tokens, axis=-1) < count) & attended
        return {"error": error / numpy.linalg.norm(self.output, axis=-1),
                "kept_mass": (mass * attended).sum(axis=-1),
                "recall": hits.sum(axis=-1) / results.token_counts,
                "attended_tokens": results.token_counts.astype(float)}


def attend_steps(library, capture, head, cache, configuration):
    """All decode steps of one head: Results with [steps, group, ...]."""
    contexts, method = capture.contexts(), configuration.c_method()
    wanted = ("tokens", "token_counts")
    if configuration.method != "h2o":
        return library.attend([cache] * capture.steps, head.queries, method, contexts,
                              wanted=wanted)
    # H2O's steps depend on each other.
    history = [library.h2o_history(method, head.prefill_mass)]
    all_steps = kernels.Results(capture.steps, capture.group, capture.d_head, wanted,
                                int(contexts[-1]))
    all_steps.tokens[:] = -1
    for step, context in enumerate(contexts):
        one = library.attend([cache], head.queries[step][None], method, [context], history, wanted)
        all_steps.output[step] = one.output[0]
        all_steps.token_counts[step] = one.token_counts[0]
        all_steps.tokens[step, :, :context] = one.tokens[0]
    return all_steps


def summary_of(configuration, figures, d_head, contexts):
    """Over heads and steps; each figure is [heads, steps, group]."""
    attended = figures["attended_tokens"]
    all_contexts = numpy.broadcast_to(contexts[:, None], attended.shape)
    return {"method": configuration.method, "ratio": configuration.ratio,
            "options": configuration.options,
            "traffic": configurations.traffic(configuration, d_head, attended, all_contexts),
            "attended_tokens": float(attended.mean()),
            "error_mean": float(figures["error"].mean()),
            "error_median": float(numpy.median(figures["error"])),
            "kept_mass": float(figures["kept_mass"].mean()),
            "recall": float(figures["recall"].mean())}


def measure(library, capture, chosen=None, progress=None):
    """(one summary a configuration, {configuration: outputs [heads, steps, group, d_head]})"""
    contexts = capture.contexts()
    chosen = chosen or configurations.configurations(capture.d_head, contexts.mean())
    figures = [{} for _ in chosen]
    outputs = [[] for _ in chosen]
    for head in capture.heads():
        if progress:
            progress(f"layer {head.layer}, KV head {head.kv_head}")
        dense = DenseSteps(capture, head)
        cache = library.cache(capture.d_head)
        library.append([cache], head.k[None], head.v[None])
        for i, configuration in enumerate(chosen):
            results = attend_steps(library, capture, head, cache, configuration)
            outputs[i].append(results.output)
            for name, values in dense.compare(results).items():
                figures[i].setdefault(name, []).append(values)
    summaries = [
        summary_of(configuration, {name: numpy.array(values) for name, values in each.items()},
                   capture.d_head, contexts)
        for configuration, each in zip(chosen, figures)]
    return summaries, {str(c): numpy.array(each) for c, each in zip(chosen, outputs)}


def table(summaries):
    lines = ["method       ratio  traffic  tokens  error (mean)  error (median)  kept mass  recall"]
    for each in summaries:
        lines.append(f"{each['method']:<10}  {each['ratio']:6.4g}  {each['traffic']:7.4f}  "
                     f"{each['attended_tokens']:6.0f}  {each['error_mean']:12.3g}  "
                     f"{each['error_median']:14.3g}  {each['kept_mass']:9.4f}  "
                     f"{each['recall']:6.4f}")
    return "\n".join(lines)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("capture", nargs="?", help="default: the fixture")
    parser.add_argument("--shared-object", help="libnearkv_kernels.so (default: that of the build)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    path = options.capture or default_capture()
    library = kernels.Kernels(options.shared_object, options.threads)
    capture = captured.Capture(path)

    def progress(text):
        print(text, file=sys.stderr, flush=True)

    summaries, _ = measure(library, capture, progress=progress)
    print(table(summaries))
    if options.out:
        provenance.write_json(options.out, {
            "what": "attention outputs of captured tensors against dense attention",
            "capture": {"file": Path(path).name, "sha256": capture.sha256,
                        **capture.metadata},
            "rule": "configurations.py",
            **provenance.of_run("tensors.py", arguments),
            "configurations": summaries})
    return 0


def default_capture():
    found = sorted(FIXTURES.glob("*.safetensors"))
    if not found:
        raise captured.CaptureError(f"{FIXTURES}: no .safetensors file; name one")
    return found[0]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (captured.CaptureError, kernels.KernelError, OSError) as problem:
        print(f"tensors.py: {problem}", file=sys.stderr)
        sys.exit(USER_ERROR)
