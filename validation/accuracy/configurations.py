"""Which options a method gets for a ratio: the one rule of all accuracy figures.

The ratio is the share of dense attention's traffic, 2 S d elements a step and query head, that a
method moves, counted as SparQ (Ribar et al., ICML 2024) counts it, where S is the context and d
the channels of a head:

- SparQ, SparF: (S r + 2 k d) / (2 S d). With r = d ratio and k = S ratio / 2 it is the ratio. A
  quarter of the k tokens are always the youngest ones. (SparQ writes "l = k / 4".) At ratio 1 they
  read everything, r = d and k = all tokens, which is a traffic of 1.5.
- H2O, StreamingLLM, window: S ratio tokens, those of the step itself included. H2O keeps half of
  them for their mass and half as the youngest, StreamingLLM 4 sinks (Xiao et al., ICLR 2024) and
  for the rest the youngest.

"Counted by tokens" is another reading of a ratio, for comparison: SparQ and SparF attend to as many
tokens as the others, k = S ratio, which is 1.5 times the traffic.

A budget stays what it is for a whole text, as a cache's size does; S is the mean context of the
decode steps, so that the ratio is that of the traffic of all steps together.
"""

import dataclasses

import kernels

METHODS = ("dense", "sparq", "sparf", "h2o", "streaming", "window")
RATIOS = (1.0, 0.5, 0.25, 0.125, 0.0625)
COUNTS = ("traffic", "tokens")
SINKS = 4
NO_TOKEN_LEFT_OUT = 2**30  # a number of tokens above every context


@dataclasses.dataclass(frozen=True)
class Configuration:
    method: str
    ratio: float
    options: dict  # of kernels.method()

    def c_method(self):
        return kernels.method(self.method, **self.options)

    def __str__(self):
        return f"{self.method} at {self.ratio:g}"


def at_least_one(value):
    return max(1, round(value))


def options_of(method, ratio, d_head, mean_context, count):
    if method == "dense":
        return {}
    if method in ("sparq", "sparf"):
        if ratio == 1:
            return {"r": d_head, "k": NO_TOKEN_LEFT_OUT}
        k = at_least_one(mean_context * ratio / (2 if count == "traffic" else 1))
        return {"r": at_least_one(d_head * ratio), "k": k, "local_window": k // 4}
    budget = NO_TOKEN_LEFT_OUT if ratio == 1 else at_least_one(mean_context * ratio)
    if method == "h2o":
        # A step attends to what is kept and to the new token, and evicts afterwards.
        recent = at_least_one((budget - 1) / 2)
        return {"heavy": max(0, budget - 1 - recent), "recent": recent}
    if method == "streaming":
        return {"sinks": SINKS, "window": at_least_one(budget - SINKS)}
    return {"window": budget}


def configurations(d_head, mean_context, methods=METHODS, ratios=RATIOS, count="traffic"):
    """In the order of the arguments; dense comes once, at ratio 1. `count` is one of COUNTS."""
    return [Configuration(method, ratio, options_of(method, ratio, d_head, mean_context, count))
            for method in methods for ratio in ((1.0,) if method == "dense" else ratios)]


def traffic(configuration, d_head, attended_tokens, contexts):
    """Share of dense traffic that was moved, from the attended tokens of steps (any shape with the
    steps' contexts); see above."""
    read = 2.0 * d_head * attended_tokens.sum()
    if "r" in configuration.options:
        read += configuration.options["r"] * contexts.sum()
    return float(read / (2.0 * d_head * contexts.sum()))
