#!/usr/bin/env python3
"""Perplexity of a language model whose decode attention is computed by our kernels.

    perplexity.py --model MODEL --text FILE [--text FILE...] --out FILE.json

MODEL is what traces/capture.py takes: a Hugging Face folder, a GGUF file, or PACKAGE/FILE.gguf.
Needs the packages of traces/requirements.txt; never reaches the network.

Each segment of text is prefilled with ordinary attention, which fills KV caches of the kernels.
Then come decode steps that are fed the text's next token, whatever the model says, with the
attention of all layers from the kernels, and the perplexity is that of the model's predictions in
them. All configurations (configurations.py: method and ratio) are one batch, each with its own
caches, so that the weights are read once for all of them. As a check, the model's own attention
runs over the same segment: the kernels' dense attention must come to the same perplexity.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import math
import multiprocessing
import sys
import time
from pathlib import Path

import numpy

import configurations
import kernels
import provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "traces"))

import capture  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

OWN_ATTENTION = "sdpa"  # PyTorch's, in transformers' registry
AGREEMENT = 1e-3  # relative, of the perplexity of our dense attention and the model's own
DISAGREES, USER_ERROR = 1, 2


# -- Attention in the model ----------------------------------------------------------------------


class SequenceCaches:
    """The caches of one configuration: one a layer and KV head, and H2O's histories."""

    def __init__(self, library, configuration, prefill):
        self.method = configuration.c_method()
        self.caches, self.histories = [], None
        for layer in prefill.caches:
            self.caches.append([library.clone(cache) for cache in layer])
        if configuration.method == "h2o":
            self.histories = [[library.h2o_history(self.method, row) for row in mass]
                              for mass in prefill.mass]

    def histories_of(self, layer):
        return None if self.histories is None else self.histories[layer]


class Prefill:
    """What the prefill leaves: caches and H2O's mass, a row a KV head, by layer."""

    def __init__(self, layers):
        self.caches = [None] * layers
        self.mass = [None] * layers


class KernelAttention:
    """For transformers' registry. A prefill (prompt > 0) computes ordinary attention and fills
    `prefill`; a decode step (sequences) appends to each sequence's caches and asks the kernels."""

    def __init__(self, library):
        self.kernels = library
        self.prompt = 0
        self.prefill = None
        self.sequences = []
        self.kernel_seconds = 0.0
        self.attended = numpy.zeros(0)  # tokens by sequence, summed over layers and steps
        self.d_head = None

    def start(self, chosen, prefill):
        """Decode steps of these configurations follow, all after this prefill."""
        self.sequences = [SequenceCaches(self.kernels, each, prefill) for each in chosen]
        self.attended = numpy.zeros(len(chosen))
        self.kernel_seconds = 0.0

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **others):
        for name in ("softcap", "s_aux", "position_bias"):
            if others.get(name) is not None:
                raise capture.CaptureError(f"layer {module.layer_idx}: attention has a {name}, "
                                           "which the kernels do not have")
        scale = key.shape[3] ** -0.5 if scaling is None else scaling
        if self.prompt > 0:
            return self.run_prefill(module.layer_idx, query, key, value, attention_mask, scale)
        return self.run_step(module.layer_idx, query, key, value, scale)

    def run_prefill(self, layer, query, key, value, mask, scale):
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
        causal = torch.ones(self.prompt, self.prompt, dtype=torch.bool).tril()
        if not bool(((mask >= 0) == causal).all()):
            raise capture.CaptureError(f"layer {layer}: does not attend to all tokens before; "
                                       "only full causal attention can be replaced")
        output, mass = capture.attend(query, key, value, mask, scale, self.prompt)
        self.d_head = key.shape[3]
        caches = [self.kernels.cache(self.d_head) for _ in range(key.shape[1])]
        self.kernels.append(caches, key[0].numpy(), value[0].numpy())
        self.prefill.caches[layer] = caches
        self.prefill.mass[layer] = mass.numpy()
        return output, None

    def run_step(self, layer, query, key, value, scale):
        started = time.perf_counter()
        count, kv_heads, _, d_head = key.shape
        query = query * (scale * math.sqrt(d_head))
        query = query.reshape(count, kv_heads, -1, d_head).numpy()
        every = [cache for sequence in self.sequences for cache in sequence.caches[layer]]
        self.kernels.append(every, key.reshape(-1, 1, d_head).numpy(),
                            value.reshape(-1, 1, d_head).numpy())
        output = numpy.empty_like(query)
        for i, sequence in enumerate(self.sequences):
            results = self.kernels.attend(
                sequence.caches[layer], query[i], sequence.method,
                histories=sequence.histories_of(layer), wanted=("token_counts",))
            output[i] = results.output
            self.attended[i] += results.token_counts.mean()
        self.kernel_seconds += time.perf_counter() - started
        return torch.from_numpy(output.reshape(count, 1, -1, d_head)), None


# -- One segment of text -------------------------------------------------------------------------


def losses(logits, targets):
    """Cross entropy of each row, nats."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").double()


class Progress:
    """A line on standard error at every tenth of the steps."""

    def __init__(self, what, total):
        self.what, self.total, self.started = what, total, time.perf_counter()

    def __call__(self, done):
        if done * 10 // self.total > (done - 1) * 10 // self.total:
            spent = time.perf_counter() - self.started
            print(f"{self.what}: {done} of {self.total} steps, {spent:.0f} s, about "
                  f"{spent / done * (self.total - done):.0f} s left", file=sys.stderr, flush=True)


class Runner:
    """A model whose attention is `attention`, a KernelAttention."""

    def __init__(self, options, model, attention):
        self.options, self.model, self.attention = options, model, attention
        self.layers = model.config.get_text_config().num_hidden_layers

    @torch.inference_mode()
    def own_loss(self, tokens):
        """Mean loss of the decode steps with the model's own attention, in one pass."""
        self.model.set_attn_implementation(OWN_ATTENTION)
        logits = self.model(tokens[None, :-1], use_cache=False,
                            logits_to_keep=self.options.steps).logits[0]
        self.model.set_attn_implementation(capture.ATTENTION)
        return float(losses(logits, tokens[self.options.prompt_tokens:]).mean())

    def prefill(self, tokens):
        """Fills the caches with these tokens."""
        prefill = Prefill(self.layers)
        self.attention.prompt, self.attention.prefill = len(tokens), prefill
        self.model(tokens[None], use_cache=False, logits_to_keep=1)
        self.attention.prompt, self.attention.prefill = 0, None
        missing = [i for i, caches in enumerate(prefill.caches) if caches is None]
        if missing:
            raise capture.CaptureError(f"layers {missing}: do not take their attention from "
                                       "transformers' registry")
        return prefill

    @torch.inference_mode()
    def run(self, name, tokens):
        """One segment. The prefill takes all but the last prompt token; that one is fed to the
        first decode step, so that every prediction that counts rests on the kernels."""
        started = time.perf_counter()
        prompt, attention = self.options.prompt_tokens, self.attention
        print(f"{name}: prefill", file=sys.stderr, flush=True)
        own = self.own_loss(tokens)
        prefill = self.prefill(tokens[:prompt - 1])
        contexts = numpy.arange(prompt, len(tokens))
        chosen = configurations.configurations(attention.d_head, contexts.mean(),
                                               self.options.methods, self.options.ratios,
                                               self.options.count)
        attention.start(chosen, prefill)
        total = torch.zeros(len(chosen), dtype=torch.float64)
        progress = Progress(name, len(contexts))
        for step, context in enumerate(contexts):
            fed = tokens[context - 1].expand(len(chosen), 1)
            position = torch.full((len(chosen), 1), int(context) - 1)
            logits = self.model(fed, position_ids=position, use_cache=False).logits[:, -1]
            total += losses(logits, tokens[context].expand(len(chosen)))
            progress(step + 1)
        attended = attention.attended / self.layers
        moved = [configurations.traffic(each, attention.d_head, attended[i:i + 1], contexts)
                 for i, each in enumerate(chosen)]
        return Segment(name, own, (total / len(contexts)).tolist(), moved, chosen,
                       time.perf_counter() - started, attention.kernel_seconds)


@dataclasses.dataclass
class Segment:
    """Losses are means over the steps, in nats; lists are by configuration, dense first."""

    name: str
    own_loss: float
    losses: list
    traffic: list
    chosen: list
    seconds: float
    kernel_seconds: float


RUNNERS = []  # of a worker process: none or one


def run_in_worker(options, name, tokens):
    if not RUNNERS:
        # One thread a process: with several, PyTorch's threads spin while they wait.
        torch.set_num_threads(1)
        attention = KernelAttention(kernels.Kernels(options.shared_object))
        folder, gguf_file = capture.find_model(options.model)
        model, _ = capture.load_model(options, folder, gguf_file, attention)
        RUNNERS.append(Runner(options, model, attention))
    return RUNNERS[0].run(name, torch.tensor(tokens))


def run_all(options, segments):
    """The segments' results in order, worked on by options.jobs processes."""
    results = []
    with concurrent.futures.ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(run_in_worker, options, *each) for each in segments]:
            segment = done.result()
            print(f"{segment.name}: perplexity {math.exp(segment.own_loss):.5g} with the model's "
                  f"own attention, {math.exp(segment.losses[0]):.5g} with our dense attention; "
                  f"{segment.seconds:.0f} s, of which kernels {segment.kernel_seconds:.0f} s",
                  flush=True)
            results.append(segment)
    return results


# -- Texts ---------------------------------------------------------------------------------------


def text_parts(options, tokenizer):
    """(texts with their provenance, segments as (name, list of tokens)). The segments of a text lie
    evenly in it, away from its beginning."""
    texts, segments = [], []
    length = options.prompt_tokens + options.steps
    for path in options.text:
        text = capture.read_text(argparse.Namespace(text=path, text_from=None, reflow=True))
        ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
        if len(ids) < length:
            raise capture.CaptureError(f"--text: {path} has {len(ids)} tokens; {length} are needed")
        starts = [(2 * i + 1) * (len(ids) - length) // (2 * options.segments)
                  for i in range(options.segments)]
        texts.append({"file": Path(path).name, "tokens": len(ids), "starts": starts,
                      "sha256": hashlib.sha256(text.encode()).hexdigest()})
        segments += [(f"{Path(path).name} from token {start}", ids[start:start + length].tolist())
                     for start in starts]
    return texts, segments


# -- Results -------------------------------------------------------------------------------------


def mean_and_error(values):
    """(mean, standard error of the mean, None for a single value)"""
    values = numpy.array(values)
    if len(values) < 2:
        return float(values.mean()), None
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def summarize(segments):
    summaries = []
    for i, each in enumerate(segments[0].chosen):
        perplexity, error = mean_and_error([math.exp(one.losses[i]) for one in segments])
        increase, increase_error = mean_and_error(
            [math.exp(one.losses[i] - one.losses[0]) - 1 for one in segments])
        summaries.append({
            "method": each.method, "ratio": each.ratio, "options": each.options,
            "traffic": float(numpy.mean([one.traffic[i] for one in segments])),
            "perplexity": perplexity, "perplexity_standard_error": error,
            "increase": increase, "increase_standard_error": increase_error,
            "perplexity_by_segment": [math.exp(one.losses[i]) for one in segments]})
    return summaries


def percent(value):
    return "" if value is None else f"{100 * value:.3g} %"


def table(summaries):
    lines = ["method       ratio  traffic  perplexity  std. error  over dense  std. error"]
    for each in summaries:
        error = each["perplexity_standard_error"]
        lines.append(f"{each['method']:<10}  {each['ratio']:6.4g}  {each['traffic']:7.4f}  "
                     f"{each['perplexity']:10.4f}  {'' if error is None else f'{error:.2f}':>10}  "
                     f"{percent(each['increase']):>10}  "
                     f"{percent(each['increase_standard_error']):>10}")
    return "\n".join(lines)


def parse_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face folder, .gguf file, or PACKAGE/FILE.gguf")
    add("--text", required=True, action="append", metavar="FILE", help="UTF-8; may be .gz")
    add("--text-source", default="not stated", help="and licence, for the result file")
    add("--segments", type=int, default=2, metavar="N", help="of each text (default 2)")
    add("--prompt-tokens", type=int, default=1024, metavar="N", help="(default 1024)")
    add("--steps", type=int, default=512, metavar="N", help="decode steps (default 512)")
    add("--methods", default=",".join(configurations.METHODS[1:]), help="besides dense")
    add("--ratios", default="1/2,1/4,1/8,1/16")
    add("--count", choices=configurations.COUNTS, default="traffic",
        help="what a ratio of SparQ and SparF is of: configurations.py (default traffic)")
    add("--shared-object", help="libnearkv_kernels.so (default: that of the build)")
    add("--jobs", type=int, default=2, help="processes, each with the model (default 2)")
    add("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    options.methods = ["dense", *filter(None, options.methods.split(","))]
    unknown = set(options.methods) - set(configurations.METHODS)
    if unknown:
        parser.error(f"--methods: {', '.join(sorted(unknown))}; must be of "
                     f"{', '.join(configurations.METHODS[1:])}")
    try:
        options.ratios = [int(a) / int(b) for a, b in
                          (part.split("/") for part in options.ratios.split(","))]
    except (ValueError, ZeroDivisionError):
        parser.error(f"--ratios: {options.ratios}; must be fractions such as 1/2,1/4")
    if min(options.segments, options.steps, options.jobs, options.prompt_tokens - 1) < 1:
        parser.error("--segments, --steps and --jobs must be at least 1, --prompt-tokens 2")
    options.compute, options.device = "f32", "cpu"  # of capture.load_model
    return options


def main(arguments):
    options = parse_options(arguments)
    started = time.perf_counter()
    kernels.find_library(options.shared_object)  # before the long part
    folder, gguf_file = capture.find_model(options.model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, **({"gguf_file": gguf_file} if gguf_file else {}))
    texts, parts = text_parts(options, tokenizer)
    segments = run_all(options, parts)
    summaries = summarize(segments)
    print(table(summaries))
    print(f"{time.perf_counter() - started:.0f} s")
    difference = max(abs(math.exp(one.losses[0] - one.own_loss) - 1) for one in segments)
    if options.out:
        packages = ["torch", "transformers", "tokenizers", *(["gguf"] if gguf_file else [])]
        provenance.write_json(options.out, {
            "what": "perplexity of teacher-forced decode steps with attention by our kernels",
            "model": options.model,
            "model_sha256": capture.sha256_of_model(folder, gguf_file),
            "texts": texts, "text_source": options.text_source,
            "prompt_tokens": options.prompt_tokens, "steps": options.steps,
            "segments": len(segments), "rule": "configurations.py",
            "count": options.count,
            **provenance.of_run("perplexity.py", arguments, **{
                name: importlib.metadata.version(name) for name in packages}),
            "own_perplexity_by_segment": [math.exp(one.own_loss) for one in segments],
            "largest_difference_of_dense": difference,
            "configurations": summaries})
    if difference > AGREEMENT:
        print(f"perplexity.py: dense attention by our kernels differs by {difference:.3g} from the "
              f"model's own; must be at most {AGREEMENT:g}", file=sys.stderr)
        return DISAGREES
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (capture.CaptureError, kernels.KernelError, OSError) as problem:
        print(f"perplexity.py: {problem}", file=sys.stderr)
        sys.exit(USER_ERROR)
