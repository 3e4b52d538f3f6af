"""The CPU kernels in Python, through kernels/c_interface.h; needs numpy only.

Arrays are row-major, converted to float32 where they are not. Errors are KernelError with the
kernels' text. The methods are explained in kernels/methods.hpp.
"""

import ctypes
import os
from pathlib import Path

import numpy

LIBRARY = "libnearkv_kernels.so"
ERROR_BYTES = 1000

KINDS = ("dense", "sparq", "sparf", "h2o", "streaming", "window")


class KernelError(Exception):
    """What the kernels say is wrong."""


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "d_head", "page_bytes", "channels_per_group", "channel_copy")]


class CMethod(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "kind", "first_token", "r", "k", "local_window", "heavy", "recent", "sinks", "window")]


class Attention(ctypes.Structure):
    _fields_ = [("calls", ctypes.c_int32), ("heads", ctypes.c_int32),
                ("caches", ctypes.c_void_p), ("contexts", ctypes.c_void_p),
                ("queries", ctypes.c_void_p), ("histories", ctypes.c_void_p),
                ("output", ctypes.c_void_p), ("alpha", ctypes.c_void_p),
                ("max", ctypes.c_void_p), ("sum", ctypes.c_void_p),
                ("tokens", ctypes.c_void_p), ("token_space", ctypes.c_int32),
                ("token_counts", ctypes.c_void_p)]


def method(kind, **options):
    """Such as method("sparf", r=8, k=64, local_window=16)."""
    return CMethod(kind=KINDS.index(kind), **options)


def find_library(path=None):
    """`path`, or the library in $NEARKV_BUILD or in a build folder of this tree."""
    root = Path(__file__).resolve().parents[2]
    places = [Path(path)] if path else [
        folder / LIBRARY for folder in (Path(os.environ.get("NEARKV_BUILD", root)),
                                        root / "build" / "release")]
    for place in places:
        if place.is_file():
            return place
    raise KernelError(f"{' or '.join(map(str, places))}: no such file; build it with "
                      "cmake --preset release && cmake --build build/release --target "
                      "nearkv_kernels_shared")


def address(array):
    return None if array is None else array.ctypes.data


def floats(values):
    return numpy.ascontiguousarray(values, dtype=numpy.float32)


def pointers(objects):
    return numpy.array([each.pointer for each in objects], dtype=numpy.uintp)


class Owned:
    """An object of the library that is freed with its Python object."""

    def __init__(self, pointer, free):
        self.pointer = pointer
        self._free = free

    def __del__(self):
        self._free(self.pointer)


class Results:
    """What attend() returns; arrays start with [calls, heads]."""

    def __init__(self, calls, heads, d_head, wanted, token_space):
        def array(name, shape, dtype):
            return numpy.empty(shape, dtype) if name in wanted else None

        self.output = numpy.empty((calls, heads, d_head), numpy.float32)
        self.alpha = array("alpha", (calls, heads), numpy.float32)
        self.max = array("state", (calls, heads), numpy.float32)
        self.sum = array("state", (calls, heads), numpy.float32)
        self.tokens = array("tokens", (calls, heads, token_space), numpy.int32)
        self.token_counts = array("token_counts", (calls, heads), numpy.int32)


class Kernels:
    def __init__(self, path=None, threads=1):
        self.path = find_library(path)
        self.threads = threads
        self.functions = ctypes.CDLL(str(self.path))
        pointer, count, error = ctypes.c_void_p, ctypes.c_int32, [ctypes.c_char_p, ctypes.c_uint64]
        for name, result, arguments in (
                ("nearkv_cache_create", pointer, [ctypes.POINTER(Shape), *error]),
                ("nearkv_cache_clone", pointer, [pointer, *error]),
                ("nearkv_cache_free", None, [pointer]),
                ("nearkv_cache_tokens", count, [pointer]),
                ("nearkv_caches_append", ctypes.c_int,
                 [pointer, count, count, pointer, pointer, *error]),
                ("nearkv_h2o_create", pointer, [count, count, pointer, count, *error]),
                ("nearkv_h2o_free", None, [pointer]),
                ("nearkv_attend", ctypes.c_int,
                 [ctypes.POINTER(Attention), ctypes.POINTER(CMethod), count, *error])):
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments

    def call(self, name, *arguments):
        """Calls a function that takes an error buffer; returns a pointer or None."""
        error = ctypes.create_string_buffer(ERROR_BYTES)
        result = getattr(self.functions, name)(*arguments, error, ERROR_BYTES)
        if result in (None, -1):
            raise KernelError(error.value.decode())
        return result

    def cache(self, d_head, page_bytes=4096, channels_per_group=4):
        """An empty KV cache of one KV head, in both layouts. The page geometry has no influence on
        any result here; the defaults are those of the CSD in configs/."""
        shape = Shape(d_head, page_bytes, channels_per_group, 1)
        return Owned(self.call("nearkv_cache_create", shape), self.functions.nearkv_cache_free)

    def clone(self, cache):
        return Owned(self.call("nearkv_cache_clone", cache.pointer),
                     self.functions.nearkv_cache_free)

    def tokens(self, cache):
        return self.functions.nearkv_cache_tokens(cache.pointer)

    def append(self, caches, k, v):
        """k and v: [caches, tokens, d_head]."""
        k, v = floats(k), floats(v)
        if k.shape != v.shape or k.ndim != 3 or k.shape[0] != len(caches):
            raise KernelError(f"k and v are {k.shape} and {v.shape}; must be "
                              f"[{len(caches)} caches, tokens, d_head]")
        places = pointers(caches)
        self.call("nearkv_caches_append", address(places), len(caches), k.shape[1], address(k),
                  address(v))

    def h2o_history(self, of, mass):
        """`of`: the method; mass: [tokens of the prefill]."""
        mass = floats(mass)
        return Owned(self.call("nearkv_h2o_create", of.heavy, of.recent, address(mass), len(mass)),
                     self.functions.nearkv_h2o_free)

    def attend(self, caches, queries, of, contexts=None, histories=None, wanted=()):
        """queries: [caches, heads, d_head]; `of`: the method; `contexts`: one a cache, else all
        appended tokens; `wanted` of "alpha", "state", "tokens", "token_counts"."""
        queries = floats(queries)
        calls, heads, d_head = queries.shape
        if calls != len(caches):
            raise KernelError(f"queries are for {calls} caches; must be for {len(caches)}")
        if contexts is not None:
            contexts = numpy.ascontiguousarray(contexts, dtype=numpy.int32)
            if contexts.shape != (calls,):
                raise KernelError(f"contexts are {contexts.shape}; must be ({calls},)")
        space = 0
        if "tokens" in wanted:
            space = int(max(map(self.tokens, caches)) if contexts is None else contexts.max())
        results = Results(calls, heads, d_head, wanted, space)
        places = pointers(caches)
        history_places = None if histories is None else pointers(histories)
        attention = Attention(
            calls, heads, address(places), address(contexts), address(queries),
            address(history_places), address(results.output), address(results.alpha),
            address(results.max), address(results.sum), address(results.tokens), space,
            address(results.token_counts))
        self.call("nearkv_attend", attention, of, self.threads)
        return results
