#!/usr/bin/env python3
"""Captures q, K and V of a causal language model on a text, as traces/captured_kv.hpp describes.

    capture.py --model MODEL --text FILE --prompt-tokens 2048 --steps 64 --out FILE.safetensors

MODEL is a Hugging Face folder, a GGUF file, or PACKAGE/FILE.gguf for a GGUF file in an installed
Python package. It needs the packages of traces/requirements.txt and never reaches the network.

The model runs once over prompt and decode steps, with an attention function of ours in place of
the model's: it records queries, keys and values as the attention operator gets them (after rotary
embeddings) and then computes ordinary attention. So it works for every model that takes its
attention from transformers' registry and attends causally to all tokens; what else a model may do
(sliding windows, soft caps, sinks outside the cache) is an error. One pass over all tokens equals
token by token decoding but for rounding.

Equal commands give equal bytes on one machine; the number of threads is part of the command.
"""

import argparse
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

FORMAT, VERSION = "nearkv-captured-kv", "1"
ATTENTION = "nearkv_capture"  # in transformers' registry
HALF_OVERFLOW = 65520.0  # the least number that rounds to infinity in FP16
QUERIES_AT_ONCE = 128  # rows of attention probabilities in memory
SUSPICIOUS_PERPLEXITY = 100.0  # of a trained model on prose; a wrongly loaded one has thousands
USER_ERROR = 2

try:
    import numpy
    import torch
    import transformers
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"capture.py: {error}; install the packages of traces/requirements.txt")


class CaptureError(Exception):
    """Something that the user can put right, or a model that cannot be captured."""


# -- What the attention function records --------------------------------------------------------


def selection(text, count, what):
    """ "0,3-5" of `count` as [0, 3, 4, 5]; everything for "all"."""
    if text == "all":
        return list(range(count))
    chosen = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last >= count:
            raise CaptureError(f'--{what}: "{part}"; must be numbers and ranges of 0 to '
                               f'{count - 1}, such as "0,3-5"')
        chosen.update(range(first, last + 1))
    return sorted(chosen)


class Recorder:
    """Takes the captured part of each layer, in the file's number format."""

    def __init__(self, options, layer_count):
        self.options = options
        self.layer_count = layer_count
        self.layers = selection(options.layers, layer_count, "layers")
        self.tokens = options.prompt_tokens + options.steps
        self.shape = None  # query heads, KV heads, d_head
        self.kv_heads = []
        self.seen = set()
        self.tensors = {}
        self.largest = {"k": 0.0, "v": 0.0, "q": 0.0}

    def check_layer(self, layer, query, key, value, mask):
        """What is recorded must be all that the attention depends on."""
        d_head = key.shape[3]
        if value.shape != key.shape or query.shape[3] != d_head:
            raise CaptureError(f"layer {layer}: query, key and value have {query.shape[3]}, "
                               f"{d_head} and {value.shape[3]} channels; must be equal")
        shape = (query.shape[1], key.shape[1], d_head)
        if self.shape not in (None, shape):
            raise CaptureError(f"layer {layer}: query heads, KV heads and channels are {shape}, "
                               f"other layers have {self.shape}; must be equal")
        if not (query.shape[0] == 1 and query.shape[2] == key.shape[2] == self.tokens):
            raise CaptureError(f"layer {layer}: attention over {tuple(query.shape)} queries and "
                               f"{tuple(key.shape)} keys; all {self.tokens} tokens were expected")
        visible = mask >= 0
        causal = torch.ones(self.tokens, self.tokens, dtype=torch.bool, device=mask.device).tril()
        if not bool((visible == causal).all()):
            raise CaptureError(f"layer {layer}: does not attend to all tokens before (a sliding "
                               f"window shorter than {self.tokens} tokens?); only full causal "
                               "attention can be captured")
        if layer in self.seen:
            raise CaptureError(f"layer {layer}: attends twice; one attention a layer was expected")
        if self.shape is None:
            self.shape = shape
            self.kv_heads = selection(self.options.heads, shape[1], "heads")
        self.seen.add(layer)

    def group(self):
        return self.shape[0] // self.shape[1]

    def query_heads(self):
        return [h * self.group() + i for h in self.kv_heads for i in range(self.group())]

    def take(self, layer, query, key, value, mass):
        """`query` is scaled so that logits are q . k / sqrt(d_head); mass is [KV heads, prompt]."""
        prompt = self.options.prompt_tokens
        parts = {"k": (key, self.kv_heads), "v": (value, self.kv_heads),
                 "q": (query[:, prompt:], self.query_heads())}
        if self.options.prompt_queries:
            parts["q_prompt"] = (query[:, :prompt], self.query_heads())
        for what, (tensor, heads) in parts.items():
            chosen = tensor[heads].to("cpu", torch.float32)
            self.check_range(f"layer.{layer}.{what}", chosen, heads,
                             prompt if what == "q" else 0)
            self.largest[what[0]] = max(self.largest[what[0]], float(chosen.abs().max()))
            number_format = numpy.float16 if self.options.dtype == "f16" else numpy.float32
            self.tensors[f"layer.{layer}.{what}"] = chosen.numpy().astype(number_format)
        self.tensors[f"layer.{layer}.prefill_mass"] = (
            mass[self.kv_heads].to("cpu", torch.float32).numpy())
        if sys.stderr.isatty():
            print(f"\rlayer {layer} of {self.layer_count}", end="", file=sys.stderr, flush=True)

    @staticmethod
    def check_range(name, tensor, heads, first_token):
        wrong = (~(tensor.abs() < HALF_OVERFLOW)).nonzero()  # NaN too
        if len(wrong) > 0:
            head, token, channel = wrong[0].tolist()
            raise CaptureError(
                f"{name}: head {heads[head]}, token {first_token + token}, channel {channel} is "
                f"{float(tensor[head, token, channel])}; must be finite and less than "
                f"{HALF_OVERFLOW:g} to fit FP16 ({len(wrong)} such values in this tensor)")


class CapturingAttention:
    """Ordinary attention, for transformers' registry; records while it has a recorder."""

    def __init__(self):
        self.recorder = None

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **others):
        recorder, layer = self.recorder, getattr(module, "layer_idx", None)
        if layer is None or attention_mask is None:
            raise CaptureError(f"{type(module).__name__}: attention without a layer number or "
                               "without a mask cannot be captured")
        for name in ("softcap", "s_aux", "position_bias"):
            if others.get(name) is not None:
                raise CaptureError(f"layer {layer}: attention has a {name} and cannot be captured")
        mask = attention_mask
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
        if recorder is not None:
            recorder.check_layer(layer, query, key, value, mask)
        scale = key.shape[3] ** -0.5 if scaling is None else scaling
        prompt = recorder.options.prompt_tokens if recorder is not None else 0
        output, mass = attend(query, key, value, mask, scale, prompt)
        if recorder is not None and layer in recorder.layers:
            factor = scale * math.sqrt(key.shape[3])  # not 1 in OPT, which scales q beforehand
            queries = query[0] if math.isclose(factor, 1.0) else query[0] * factor
            recorder.take(layer, queries, key[0], value[0], mass)
        return output, None


def attend(query, key, value, mask, scale, prompt):
    """Attention output [1, tokens, query heads, d_head] and, of the first `prompt` queries, the
    probability that each of the first `prompt` tokens received: [KV heads, prompt]."""
    kv_heads = key.shape[1]
    grouped = query[0].unflatten(0, (kv_heads, -1))  # KV heads, group, queries, d_head
    output = torch.empty_like(grouped)
    mass = torch.zeros(kv_heads, prompt, dtype=torch.float64, device=key.device)
    for first in range(0, query.shape[2], QUERIES_AT_ONCE):
        rows = slice(first, first + QUERIES_AT_ONCE)
        logits = torch.matmul(grouped[:, :, rows], key[0, :, None].transpose(2, 3)) * scale
        probability = torch.softmax(logits + mask[0, :, None, rows], dim=-1, dtype=torch.float32)
        output[:, :, rows] = torch.matmul(probability.to(value.dtype), value[0, :, None])
        of_prompt = probability[:, :, : max(prompt - first, 0), :prompt]
        mass += of_prompt.sum(dim=(1, 2), dtype=torch.float64)
    return output.flatten(0, 1).transpose(0, 1)[None].contiguous(), mass


# -- Model and text ------------------------------------------------------------------------------


def find_model(name):
    """(folder, GGUF file or None) of what --model says."""
    path = Path(name)
    package, _, inside = name.partition("/")
    if not path.exists() and inside and re.fullmatch(r"\w+", package):
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations or []) if found else []:
            path = Path(folder) / inside
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path.name
    if (path / "config.json").is_file():
        return path, None
    raise CaptureError(f'--model: "{name}" is no folder with a config.json, no .gguf file and no '
                       "PACKAGE/FILE.gguf of an installed package")


def sha256_of_model(folder, gguf_file):
    """Of the GGUF file, or of the folder's weight files one behind the other, by name."""
    files = [folder / gguf_file] if gguf_file else sorted(
        path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def licence_of_gguf(path):
    from gguf import GGUFReader  # only here: folders do without gguf

    field = GGUFReader(path).fields.get("general.license")
    return field.contents() if field else "not stated"


def load_model(options, folder, gguf_file, attention):
    """(model, tokenizer), with our attention function."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    source = {"gguf_file": gguf_file} if gguf_file else {}
    compute = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, **source, dtype=compute[options.compute], attn_implementation=ATTENTION)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CaptureError(f"--model: transformers cannot load it: {reason}") from error
    return model.eval().to(options.device), tokenizer


def read_text(options):
    """The text that is tokenized."""
    path = Path(options.text)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CaptureError(f"--text: {path}: {error}; a text in UTF-8 was expected") from error
    if options.text_from is not None:
        lines = text.splitlines(keepends=True)
        words = options.text_from.split()  # so that any kind of blank will do
        starts = [i for i, line in enumerate(lines) if line.split() == words]
        if not starts:
            raise CaptureError(f'--text-from: {path} has no line "{options.text_from}"')
        text = "".join(lines[starts[-1]:])  # a table of contents may have it too
    if options.reflow:
        paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
        text = "\n\n".join(filter(None, paragraphs)) + "\n"
    return text


@torch.inference_mode()
def choose_tokens(options, model, tokenizer, text):
    """(tokens of prompt and steps, [1, n]; tokens that the text has)"""
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    total = options.prompt_tokens + options.steps
    needed = options.prompt_tokens if options.decode == "greedy" else total
    if ids.shape[1] < needed:
        raise CaptureError(f"--text: has {ids.shape[1]} tokens; {needed} are needed")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", total)
    if total > longest:
        raise CaptureError(f"--prompt-tokens and --steps are {total} together; the model takes at "
                           f"most {longest} tokens")
    chosen = ids[:, :needed].to(options.device)
    if options.decode == "greedy":
        cache, fed = None, chosen
        for _ in range(options.steps):
            answer = model(fed, past_key_values=cache, use_cache=True)
            cache, fed = answer.past_key_values, answer.logits[:, -1:].argmax(dim=-1)
            chosen = torch.cat([chosen, fed], dim=1)
    return chosen, ids.shape[1]


@torch.inference_mode()
def record(options, model, attention, tokens):
    """(recorder with all tensors, perplexity of the tokens)"""
    attention.recorder = Recorder(options, model.config.get_text_config().num_hidden_layers)
    logits = model(tokens, use_cache=False).logits[0, :-1]
    recorder, attention.recorder = attention.recorder, None
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    missing = sorted(set(range(recorder.layer_count)) - recorder.seen)
    if missing:
        raise CaptureError(f"layers {missing}: do not take their attention from transformers' "
                           "registry and cannot be captured")
    losses = [torch.nn.functional.cross_entropy(logits[first : first + QUERIES_AT_ONCE].float(),
                                                tokens[0, 1:][first : first + QUERIES_AT_ONCE],
                                                reduction="sum").item()
              for first in range(0, logits.shape[0], QUERIES_AT_ONCE)]
    return recorder, math.exp(sum(losses) / logits.shape[0])


# -- The file ------------------------------------------------------------------------------------

DTYPES = {"float16": "F16", "float32": "F32"}


def write_safetensors(path, tensors, metadata):
    """Wide elements first, then by name, so that all are aligned; equal bytes for equal input,
    which the safetensors package does not give (it writes metadata in any order)."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header, end = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name in order:
        tensor = tensors[name]
        header[name] = {"dtype": DTYPES[tensor.dtype.name], "shape": list(tensor.shape),
                        "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")  # no reader sees half a file
    try:
        with temporary.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                array = numpy.ascontiguousarray(tensors[name])
                stream.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CaptureError(f"--out: {path}: {error.strerror}") from error


def versions(packages):
    return {name: importlib.metadata.version(name) for name in packages}


def describe(options, model, recorder, found):
    """The metadata, all of it strings."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    query_heads, kv_heads, d_head = recorder.shape
    facts = {
        "format": FORMAT, "version": VERSION, "architecture": config.model_type,
        "model": options.model_name, "model_licence": options.model_licence,
        "model_layers": recorder.layer_count, "model_query_heads": query_heads,
        "model_kv_heads": kv_heads, "d_head": d_head,
        "rope_theta": rope.get("rope_theta", getattr(config, "rope_theta", "none")),
        "layers": recorder.layers, "kv_heads": recorder.kv_heads,
        "prompt_tokens": options.prompt_tokens, "steps": options.steps, "decode": options.decode,
        "compute": options.compute, "device": options.device, "threads": options.threads,
        "text": options.text_name, "text_licence": options.text_licence,
        "command": shlex.join(["capture.py", *options.command]),
        "python": ".".join(map(str, sys.version_info[:3])), **found,
        **versions(["torch", "transformers", "tokenizers", "numpy"]),
    }
    return {key: value if isinstance(value, str) else json.dumps(value)
            for key, value in facts.items()}


# -- Command line --------------------------------------------------------------------------------


def parse_options(arguments):
    parser = argparse.ArgumentParser(
        prog="capture.py", description=__doc__.split("\n\n")[0], allow_abbrev=False)

    def count(text):
        if not re.fullmatch(r"[1-9]\d{0,6}", text):
            raise argparse.ArgumentTypeError(f'"{text}"; must be a whole number from 1')
        return int(text)

    add = parser.add_argument
    add("--model", required=True, help="Hugging Face folder, .gguf file, or PACKAGE/FILE.gguf")
    add("--model-name", help="for the metadata (else the name of the file or folder)")
    add("--model-licence", help="for the metadata (else what a GGUF file says)")
    add("--text", required=True, metavar="FILE", help="UTF-8; may be .gz")
    add("--text-name", help="for the metadata (else the name of the file)")
    add("--text-licence", default="not stated", help="for the metadata")
    add("--text-from", metavar="LINE", help="the text starts at the last line that says this")
    add("--reflow", action="store_true", help="join the lines of each paragraph")
    add("--layers", default="all", help='such as "0,3-5" (default all)')
    add("--heads", default="all", help="KV heads, in the same form; their query heads go along")
    add("--prompt-tokens", type=count, required=True, metavar="N")
    add("--steps", type=count, required=True, metavar="N", help="decode steps")
    add("--decode", choices=("text", "greedy"), default="text",
        help="steps read on in the text (default), or take what the model generates")
    add("--prompt-queries", action="store_true", help="the prompt's queries too")
    add("--dtype", choices=("f16", "f32"), default="f16", help="of q, k and v (default f16)")
    add("--compute", choices=("f32", "bf16", "f16"), default="f32", help="of the model")
    add("--device", default="cpu", help="PyTorch's name (default cpu)")
    add("--threads", type=count, default=2, help="results depend on it (default 2)")
    add("--out", required=True, type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    options.command = list(arguments)
    return options


def main(arguments):
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    folder, gguf_file = find_model(options.model)
    options.model_name = options.model_name or (
        Path(gguf_file).stem if gguf_file else folder.resolve().name)
    options.model_licence = options.model_licence or (
        licence_of_gguf(folder / gguf_file) if gguf_file else "not stated")
    options.text_name = options.text_name or Path(options.text).name
    text = read_text(options)
    attention = CapturingAttention()
    model, tokenizer = load_model(options, folder, gguf_file, attention)
    tokens, text_tokens = choose_tokens(options, model, tokenizer, text)
    recorder, perplexity = record(options, model, attention, tokens)
    found = {"text_sha256": hashlib.sha256(text.encode()).hexdigest(), "text_tokens": text_tokens,
             "model_sha256": sha256_of_model(folder, gguf_file), "perplexity": f"{perplexity:.4g}",
             **(versions(["gguf"]) if gguf_file else {})}
    write_safetensors(options.out, recorder.tensors, describe(options, model, recorder, found))
    query_heads, kv_heads, d_head = recorder.shape
    print(f"{options.model_name}: {recorder.layer_count} layers, {query_heads} query and "
          f"{kv_heads} KV heads of {d_head}")
    print(f"captured layers {recorder.layers}, KV heads {recorder.kv_heads}, "
          f"{options.prompt_tokens} prompt tokens and {options.steps} steps of {text_tokens}")
    print("largest magnitude: "
          + ", ".join(f"{what} {value:.4g}" for what, value in recorder.largest.items()))
    print(f"perplexity {perplexity:.4g}")
    print(f"wrote {options.out}, {options.out.stat().st_size} bytes")
    if perplexity > SUSPICIOUS_PERPLEXITY:
        print(f"capture.py: warning: a trained model on prose has a perplexity well below "
              f"{SUSPICIOUS_PERPLEXITY:g}; is it loaded rightly?", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CaptureError as problem:
        print(f"capture.py: {problem}", file=sys.stderr)
        sys.exit(USER_ERROR)
