#!/usr/bin/env python3
"""Speed of the CUDA kernels against a plain streaming read and PyTorch's SDPA, in one run.

    decode_attention_bench.py LIBRARY [--out FILE.json] [--quick]

LIBRARY is libnearkv_cuda.so. Needs PyTorch with CUDA. Times are medians over CUDA-event-timed
replays of a captured graph, caches cold by rotating over several batches where one fits in L2;
PyTorch's calls are timed both ways, in a graph and one call at a time.
"""

import argparse
import ctypes
import json
import statistics
import sys

import torch

PAGE = 4096
CHANNELS_PER_GROUP = 4


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "d_head", "page_bytes", "channels_per_group", "sequences", "kv_heads",
        "queries_per_kv_head", "longest_context")]


class Tensors(ctypes.Structure):
    _fields_ = [("k_pages", ctypes.c_void_p), ("v_pages", ctypes.c_void_p),
                ("channel_pages", ctypes.c_void_p), ("token_table", ctypes.c_void_p),
                ("channel_table", ctypes.c_void_p), ("v_bar", ctypes.c_void_p),
                ("token_groups", ctypes.c_int32), ("channel_chunks", ctypes.c_int32),
                ("contexts", ctypes.c_void_p), ("queries", ctypes.c_void_p),
                ("output", ctypes.c_void_p)]


def load(path):
    library = ctypes.CDLL(path)
    library.nearkv_cuda_create.restype = ctypes.c_void_p
    error = [ctypes.c_char_p, ctypes.c_uint64]
    library.nearkv_cuda_create.argtypes = [ctypes.POINTER(Shape)] + error
    library.nearkv_cuda_destroy.argtypes = [ctypes.c_void_p]
    library.nearkv_cuda_dense.argtypes = [ctypes.c_void_p, ctypes.POINTER(Tensors),
                                          ctypes.c_void_p] + error
    library.nearkv_cuda_sparf.argtypes = [ctypes.c_void_p, ctypes.POINTER(Tensors)] + \
        [ctypes.c_int32] * 3 + [ctypes.c_void_p, ctypes.c_void_p] + error
    library.nearkv_cuda_stream_read.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p,
                                                ctypes.c_void_p] + error
    return library


ORDERED = False


def page_order(count):
    return (torch.arange if ORDERED else torch.randperm)(count, device="cuda")


class Batch:
    """One paged cache with scattered pages, and the same as plain tensors."""

    def __init__(self, batch, heads, kv_heads, d, context, channels):
        tokens = PAGE // 2 // d
        chunk = PAGE // 2 // CHANNELS_PER_GROUP
        groups = -(-context // tokens)
        self.k = torch.randn(batch, kv_heads, context, d, dtype=torch.float16, device="cuda")
        self.v = torch.randn_like(self.k)
        rows = batch * kv_heads
        padded = torch.zeros(rows, groups * tokens, d, dtype=torch.float16, device="cuda")
        order = page_order(rows * groups)
        place = torch.empty_like(order)
        place[order] = torch.arange(rows * groups, device="cuda")
        pools = []
        for source in (self.k, self.v):
            padded[:, :context] = source.reshape(rows, context, d)
            pools.append(padded.reshape(rows * groups, tokens * d)[order].contiguous())
        self.k_pages, self.v_pages = pools
        self.token_table = place.to(torch.int32).contiguous()
        self.channel_pages = self.channel_table = None
        chunks = -(-context // chunk)
        if channels:
            c_groups = d // CHANNELS_PER_GROUP
            image = torch.zeros(rows, chunks * chunk, d, dtype=torch.float16, device="cuda")
            image[:, :context] = self.k.reshape(rows, context, d)
            image = image.reshape(rows, chunks, chunk, c_groups, CHANNELS_PER_GROUP)
            image = image.permute(0, 1, 3, 4, 2).reshape(rows * chunks * c_groups, -1)
            order = page_order(image.shape[0])
            place = torch.empty_like(order)
            place[order] = torch.arange(image.shape[0], device="cuda")
            self.channel_pages = image[order].contiguous()
            self.channel_table = place.to(torch.int32).contiguous()
            del image
        self.v_bar = self.v.float().mean(2).contiguous()
        self.q = torch.randn(batch, heads, 1, d, dtype=torch.float16, device="cuda")
        self.queries = self.q.float().contiguous()
        self.output = torch.empty_like(self.queries)
        self.contexts = torch.full((batch,), context, dtype=torch.int32, device="cuda")
        self.tensors = Tensors(
            self.k_pages.data_ptr(), self.v_pages.data_ptr(),
            self.channel_pages.data_ptr() if channels else None, self.token_table.data_ptr(),
            self.channel_table.data_ptr() if channels else None, self.v_bar.data_ptr(), groups,
            chunks, self.contexts.data_ptr(), self.queries.data_ptr(), self.output.data_ptr())


def checked(function, *arguments):
    """Calls a function of the library with room for its error text."""
    text = ctypes.create_string_buffer(256)
    result = function(*arguments, text, len(text))
    if text.value:
        sys.exit(text.value.decode())
    return result


def timed(calls, graph=True, repeats=15):
    """Median seconds of one call; `calls` are run in turn."""
    stream = torch.cuda.Stream()
    inner = max(len(calls), 4)
    with torch.cuda.stream(stream):
        for call in calls:
            call(stream)
        torch.cuda.synchronize()
        launch = None
        if graph:
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured, stream=stream):
                for i in range(inner):
                    calls[i % len(calls)](stream)
            launch = captured.replay
        else:
            def launch():
                for i in range(inner):
                    calls[i % len(calls)](stream)
        launch()
        torch.cuda.synchronize()
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            launch()
            end.record(stream)
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3 / inner)
    return statistics.median(times)


def sdpa(batch, stream, grouped):
    return torch.nn.functional.scaled_dot_product_attention(
        batch.q, batch.k, batch.v, enable_gqa=grouped)


def measure_read(library):
    memory = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").random_()
    sink = torch.zeros(1, dtype=torch.int32, device="cuda")

    def call(stream):
        checked(library.nearkv_cuda_stream_read, memory.data_ptr(), memory.numel(),
                sink.data_ptr(), stream.cuda_stream)
    return memory.numel() / timed([call])


def measure(library, batch, heads, kv_heads, d, context, read, sparse, with_sdpa):
    kv_bytes = batch * kv_heads * context * d * 4
    copies = max(1, min(8, (256 << 20) // kv_bytes))
    batches = [Batch(batch, heads, kv_heads, d, context, sparse) for _ in range(copies)]
    handle = checked(library.nearkv_cuda_create, ctypes.byref(
        Shape(d, PAGE, CHANNELS_PER_GROUP, batch, kv_heads, heads // kv_heads, context)))

    def dense(b):
        return lambda stream: checked(library.nearkv_cuda_dense, handle,
                                      ctypes.byref(b.tensors), stream.cuda_stream)

    def sparf(b):
        return lambda stream: checked(library.nearkv_cuda_sparf, handle,
                                      ctypes.byref(b.tensors), d // 8, max(1, context // 16), 0,
                                      None, stream.cuda_stream)

    row = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "d_head": d, "context": context,
           "kv_bytes": kv_bytes}
    row["dense_s"] = timed([dense(b) for b in batches])
    exact = sdpa(batches[0], None, heads != kv_heads).float()
    dense(batches[0])(torch.cuda.current_stream())
    torch.cuda.synchronize()
    row["largest_difference_to_sdpa"] = (batches[0].output - exact).abs().max().item()
    row["of_read_bandwidth"] = kv_bytes / row["dense_s"] / read
    if with_sdpa:
        calls = [lambda stream, b=b: sdpa(b, stream, heads != kv_heads) for b in batches]
        row["sdpa_graph_s"] = timed(calls)
        row["sdpa_call_s"] = timed(calls, graph=False)
        row["sdpa_over_dense"] = row["sdpa_graph_s"] / row["dense_s"]
    if sparse:
        row["sparf_s"] = timed([sparf(b) for b in batches])
        row["dense_over_sparf"] = row["dense_s"] / row["sparf_s"]
    library.nearkv_cuda_destroy(handle)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared_object", metavar="LIBRARY")
    parser.add_argument("--out")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ordered", action="store_true", help="pages in order, not scattered")
    arguments = parser.parse_args()
    global ORDERED
    ORDERED = arguments.ordered
    library = load(arguments.shared_object)
    torch.manual_seed(1)
    read = measure_read(library)
    result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__,
              "cuda": torch.version.cuda, "read_Bps": read, "rows": []}
    print(f"{result['device']}, plain read {read / 1e9:.0f} GB/s")
    points = [(b, 40, 40, 128, c, False) for b in (1, 4, 16, 64)
              for c in (512, 1024, 2048, 8192, 32768) if b * c <= 16 * 32768]
    points += [(b, 40, 40, 128, 32768, True) for b in (1, 4, 16)]
    points += [(16, 32, 8, 128, 8192, True), (16, 32, 32, 64, 8192, True),
               (16, 32, 32, 80, 8192, True), (16, 9, 3, 64, 8192, True)]
    if arguments.quick:
        points = [(1, 40, 40, 128, 512, False), (4, 40, 40, 128, 512, False),
                  (4, 40, 40, 128, 2048, False), (16, 40, 40, 128, 512, False),
                  (16, 40, 40, 128, 2048, False), (16, 40, 40, 128, 8192, True),
                  (16, 32, 8, 128, 8192, True), (16, 32, 32, 64, 8192, True),
                  (16, 32, 32, 80, 8192, True)]
    for batch, heads, kv_heads, d, context, sparse in points:
        row = measure(library, batch, heads, kv_heads, d, context, read, sparse, True)
        torch.cuda.empty_cache()
        result["rows"].append(row)
        print(" ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
                       for key, value in row.items()), flush=True)
    if arguments.out:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
