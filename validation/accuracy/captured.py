"""Reads captured tensors as traces/captured_kv.hpp describes them; needs numpy only."""

import hashlib
import json
from pathlib import Path

import numpy

FORMAT = "nearkv-captured-kv"
DTYPES = {"F16": numpy.dtype("<f2"), "F32": numpy.dtype("<f4")}
HEADER_BYTES = 8  # of the length in front of a .safetensors header


class CaptureError(Exception):
    """A file that is no capture."""


class Head:
    """One KV head of one layer: k and v [tokens, d_head], queries [steps, group, d_head],
    prefill_mass [prompt tokens]."""

    def __init__(self, layer, kv_head, tensors):
        self.layer, self.kv_head = layer, kv_head
        self.k, self.v, self.queries, self.prefill_mass = tensors


class Capture:
    def __init__(self, path):
        self.path = Path(path)
        self.data = self.path.read_bytes()
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        try:
            self.start = HEADER_BYTES + int.from_bytes(self.data[:HEADER_BYTES], "little")
            header = json.loads(self.data[HEADER_BYTES:self.start])
            self.metadata = header.pop("__metadata__")
            found = self.metadata["format"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CaptureError(f"{self.path}: no capture ({error})") from error
        if found != FORMAT:
            raise CaptureError(f'{self.path}: format is "{found}"; must be "{FORMAT}"')
        self.header = header
        self.layers = json.loads(self.metadata["layers"])
        self.kv_heads = json.loads(self.metadata["kv_heads"])
        self.d_head = int(self.metadata["d_head"])
        self.prompt_tokens = int(self.metadata["prompt_tokens"])
        self.steps = int(self.metadata["steps"])
        self.group = (int(self.metadata["model_query_heads"])
                      // int(self.metadata["model_kv_heads"]))

    def tensor(self, name, shape):
        entry = self.header.get(name, {})
        if entry.get("dtype") not in DTYPES or entry.get("shape") != list(shape):
            raise CaptureError(f'{self.path}: {name} is {entry.get("dtype")} {entry.get("shape")}; '
                               f"must be F16 or F32 {list(shape)}")
        first, last = entry["data_offsets"]
        data = self.data[self.start + first:self.start + last]
        return numpy.frombuffer(data, DTYPES[entry["dtype"]]).reshape(shape).astype(numpy.float32)

    def heads(self):
        """All captured heads, layer by layer."""
        count, tokens = len(self.kv_heads), self.prompt_tokens + self.steps
        for layer in self.layers:
            k = self.tensor(f"layer.{layer}.k", (count, tokens, self.d_head))
            v = self.tensor(f"layer.{layer}.v", (count, tokens, self.d_head))
            q = self.tensor(f"layer.{layer}.q", (count * self.group, self.steps, self.d_head))
            mass = self.tensor(f"layer.{layer}.prefill_mass", (count, self.prompt_tokens))
            q = q.reshape(count, self.group, self.steps, self.d_head).transpose(0, 2, 1, 3)
            for place, kv_head in enumerate(self.kv_heads):
                yield Head(layer, kv_head, (k[place], v[place], q[place], mass[place]))

    def contexts(self):
        """Of the steps."""
        return numpy.arange(self.prompt_tokens + 1, self.prompt_tokens + self.steps + 1)
