#!/usr/bin/env python3
"""Speed of the CUDA kernels against a plain streaming read and PyTorch's SDPA, in one run.

    decode_attention_bench.py LIBRARY [--json FILE] [--quick]

LIBRARY is libnearkv_cuda.so. Needs PyTorch with CUDA. Everything is timed in two ways: "graph", the
median over event-timed replays of a captured graph of several calls, caches cold by rotating over
several batches where one fits in L2; and "call", one call at a time as an eager program issues it:
event, call, event, synchronize, median. The table at the end compares with the goals.
"""

import argparse
import ctypes
import datetime
import json
import statistics
import subprocess
import sys

import torch

PAGE = 4096
CHANNELS_PER_GROUP = 4
DENSE, SPARQ, SPARF, H2O, STREAMING, WINDOW = range(6)


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "d_head", "page_bytes", "channels_per_group", "sequences", "kv_heads",
        "queries_per_kv_head", "longest_context", "selects", "most_kept")]


class Tensors(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_void_p) for name in (
        "k_pages", "v_pages", "channel_pages", "token_table", "channel_table", "v_bar")] +
        [("token_groups", ctypes.c_int32), ("channel_chunks", ctypes.c_int32)] +
        [(name, ctypes.c_void_p) for name in (
            "contexts", "queries", "output", "max", "sum", "state_out", "channels", "tokens",
            "alpha", "h2o_tokens", "h2o_mass", "h2o_counts")] +
        [("h2o_stride", ctypes.c_int32)])


class Method(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in (
        "method", "first_token", "r", "k", "local_window", "heavy", "recent", "sinks", "window")]


def load(path):
    library = ctypes.CDLL(path)
    library.nearkv_cuda_create.restype = ctypes.c_void_p
    error = [ctypes.c_char_p, ctypes.c_uint64]
    library.nearkv_cuda_create.argtypes = [ctypes.POINTER(Shape)] + error
    library.nearkv_cuda_destroy.argtypes = [ctypes.c_void_p]
    library.nearkv_cuda_attend.argtypes = [ctypes.c_void_p, ctypes.POINTER(Tensors),
                                           ctypes.POINTER(Method), ctypes.c_void_p] + error
    library.nearkv_cuda_stream_read.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p,
                                                ctypes.c_void_p] + error
    return library


def scattered(image):
    """The pages of an image in random places of a pool, and the table that finds them."""
    order = torch.randperm(image.shape[0], device="cuda")
    place = torch.empty_like(order)
    place[order] = torch.arange(image.shape[0], device="cuda")
    return image[order].contiguous(), place.to(torch.int32).contiguous(), order


class Batch:
    """One paged cache with scattered pages, and the same as plain tensors."""

    def __init__(self, batch, heads, kv_heads, d, context, channels):
        tokens = PAGE // 2 // d
        groups = -(-context // tokens)
        rows = batch * kv_heads
        self.k = torch.randn(batch, kv_heads, context, d, dtype=torch.float16, device="cuda")
        self.v = torch.randn_like(self.k)
        self.k_pages, self.token_table, order = scattered(self.image(self.k, groups, tokens))
        self.v_pages = self.image(self.v, groups, tokens)[order].contiguous()
        chunk = PAGE // 2 // CHANNELS_PER_GROUP
        chunks = -(-context // chunk)
        self.channel_pages = self.channel_table = None
        if channels:
            image = torch.zeros(rows, chunks * chunk, d, dtype=torch.float16, device="cuda")
            image[:, :context] = self.k.reshape(rows, context, d)
            image = image.reshape(rows, chunks, chunk, d // CHANNELS_PER_GROUP, CHANNELS_PER_GROUP)
            image = image.permute(0, 1, 3, 4, 2).reshape(-1, CHANNELS_PER_GROUP * chunk)
            self.channel_pages, self.channel_table, _ = scattered(image)
            del image
        self.v_bar = self.v.mean(2, dtype=torch.float32).contiguous()
        self.q = torch.randn(batch, heads, 1, d, dtype=torch.float16, device="cuda")
        self.queries = self.q.float().contiguous()
        self.output = torch.empty_like(self.queries)
        self.contexts = torch.full((batch,), context, dtype=torch.int32, device="cuda")
        self.h2o = None
        self.tensors = Tensors(
            k_pages=self.k_pages.data_ptr(), v_pages=self.v_pages.data_ptr(),
            channel_pages=self.channel_pages.data_ptr() if channels else None,
            token_table=self.token_table.data_ptr(),
            channel_table=self.channel_table.data_ptr() if channels else None,
            v_bar=self.v_bar.data_ptr(), token_groups=groups, channel_chunks=chunks,
            contexts=self.contexts.data_ptr(), queries=self.queries.data_ptr(),
            output=self.output.data_ptr())

    @staticmethod
    def image(source, groups, tokens):
        """Pages of `tokens` rows each, the last one and the end of each page padded with zeros."""
        rows, context, d = source.shape[0] * source.shape[1], source.shape[2], source.shape[3]
        if context == groups * tokens and tokens * d == PAGE // 2:
            return source.reshape(rows * groups, tokens * d)
        padded = torch.zeros(rows, groups * tokens, d, dtype=torch.float16, device="cuda")
        padded[:, :context] = source.reshape(rows, context, d)
        pages = torch.zeros(rows * groups, PAGE // 2, dtype=torch.float16, device="cuda")
        pages[:, :tokens * d] = padded.reshape(rows * groups, tokens * d)
        return pages

    def keep_for_h2o(self, heavy, recent):
        """A history as after many steps: the first and the last tokens, and room for one more."""
        rows, context = self.token_table.shape[0] // self.tensors.token_groups, self.k.shape[2]
        kept = torch.cat([torch.arange(heavy), torch.arange(context - 1 - recent, context - 1)])
        tokens = torch.zeros(rows, heavy + recent + 1, dtype=torch.int32)
        tokens[:, :-1] = kept
        self.h2o = (tokens.cuda(), torch.rand(tokens.shape, device="cuda"),
                    torch.full((rows,), heavy + recent, dtype=torch.int32, device="cuda"))
        (self.tensors.h2o_tokens, self.tensors.h2o_mass,
         self.tensors.h2o_counts) = (tensor.data_ptr() for tensor in self.h2o)
        self.tensors.h2o_stride = tokens.shape[1]


def checked(function, *arguments):
    """Calls a function of the library with room for its error text."""
    text = ctypes.create_string_buffer(256)
    result = function(*arguments, text, len(text))
    if text.value:
        sys.exit(text.value.decode())
    return result


def graph_time(calls, repeats=15):
    """Median seconds of one call in a replayed graph; `calls` are run in turn."""
    stream = torch.cuda.Stream()
    inner = max(len(calls), 4)
    with torch.cuda.stream(stream):
        for call in calls:
            call(stream)
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            for i in range(inner):
                calls[i % len(calls)](stream)
        captured.replay()
        torch.cuda.synchronize()
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record(stream)
            captured.replay()
            end.record(stream)
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) * 1e-3 / inner)
    return statistics.median(times)


def call_time(calls, repeats=31):
    """Median seconds from before a call is issued to its end, one at a time."""
    stream = torch.cuda.current_stream()
    for call in calls:
        call(stream)
    torch.cuda.synchronize()
    times = []
    for i in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        calls[i % len(calls)](stream)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def both_times(calls):
    return {"graph": graph_time(calls), "call": call_time(calls)}


def alternating_times(one, other, rounds=3):
    """Both of two, measured in turn so that the device's state favours neither; medians."""
    for call in one * 10 + other * 10:  # out of idle clocks
        call(torch.cuda.current_stream())
    pairs = [(both_times(one), both_times(other)) for _ in range(rounds)]
    return [{way: statistics.median(pair[i][way] for pair in pairs) for way in ("graph", "call")}
            for i in range(2)]


def sdpa(batch, grouped):
    return torch.nn.functional.scaled_dot_product_attention(
        batch.q, batch.k, batch.v, enable_gqa=grouped)


def measure_read(library):
    memory = torch.empty(4 << 30, dtype=torch.uint8, device="cuda").random_()
    sink = torch.zeros(1, dtype=torch.int32, device="cuda")

    def call(stream):
        checked(library.nearkv_cuda_stream_read, memory.data_ptr(), memory.numel(),
                sink.data_ptr(), stream.cuda_stream)
    return memory.numel() / graph_time([call])


def attend_call(library, handle, batch, method):
    """A function of the stream, all other arguments ready as a program would have them."""
    text = ctypes.create_string_buffer(256)
    tensors, options = ctypes.byref(batch.tensors), ctypes.byref(method)

    def call(stream):
        if library.nearkv_cuda_attend(handle, tensors, options, stream.cuda_stream, text, 256):
            sys.exit(text.value.decode())
    call.keeps = (batch, method)
    return call


def methods_of(d, context):
    """All at an eighth of the traffic of dense attention."""
    kept = context // 8
    return {
        "sparq": Method(SPARQ, r=d // 8, k=max(1, context // 16)),
        "sparf": Method(SPARF, r=d // 8, k=max(1, context // 16)),
        "h2o": Method(H2O, heavy=kept // 2, recent=kept // 2),
        "streaming": Method(STREAMING, sinks=4, window=kept - 4),
        "window": Method(WINDOW, window=kept),
    }


def measure(library, point, read):
    batch, heads, kv_heads, d, context, sparse = point
    kv_bytes = batch * kv_heads * context * d * 4
    copies = max(1, min(8, (256 << 20) // kv_bytes))
    batches = [Batch(batch, heads, kv_heads, d, context, sparse) for _ in range(copies)]
    kept = context // 8 // 2 * 2
    handle = checked(library.nearkv_cuda_create, ctypes.byref(
        Shape(d, PAGE, CHANNELS_PER_GROUP, batch, kv_heads, heads // kv_heads, context,
              int(sparse), kept + 1 if sparse else 0)))

    def calls(method):
        return [attend_call(library, handle, b, method) for b in batches]

    row = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "d_head": d, "context": context,
           "kv_bytes": kv_bytes, "seconds": {}}
    seconds = row["seconds"]
    dense = calls(Method(DENSE))
    seconds["dense"], seconds["sdpa"] = alternating_times(
        dense, [lambda stream, b=b: sdpa(b, heads != kv_heads) for b in batches])
    dense[0](torch.cuda.current_stream())
    torch.cuda.synchronize()
    exact = sdpa(batches[0], heads != kv_heads).float()
    row["largest_difference_to_sdpa"] = (batches[0].output - exact).abs().max().item()
    row["of_read_bandwidth"] = kv_bytes / seconds["dense"]["graph"] / read
    row["sdpa_over_dense"] = {way: seconds["sdpa"][way] / seconds["dense"][way]
                              for way in ("graph", "call")}
    if sparse:
        for b in batches:
            b.keep_for_h2o(kept // 2, kept // 2)
        for name, method in methods_of(d, context).items():
            seconds[name] = both_times(calls(method))
        row["dense_over"] = {
            name: {way: seconds["dense"][way] / seconds[name][way] for way in ("graph", "call")}
            for name in methods_of(d, context)}
    library.nearkv_cuda_destroy(handle)
    return row


def verdicts(rows):
    """(figure, required, measured, met) of the goals, worst of the rows that each is about."""
    table = []

    def goal(figure, required, values):
        if values:
            least, where = min(values)
            table.append((figure, required, least, least >= required, where))

    mha = [row for row in rows if row["heads"] == 40 and row["d_head"] == 128]
    dense = [row for row in mha if "dense_over" not in row]

    def at(row):
        return f"batch {row['batch']}, context {row['context']}"

    goal("dense, share of read bandwidth, KV of 1 GB and more", 0.92,
         [(row["of_read_bandwidth"], at(row)) for row in mha if row["kv_bytes"] >= 1e9])
    for way in ("graph", "call"):
        goal(f"dense against SDPA, any size ({way})", 1.0,
             [(row["sdpa_over_dense"][way], at(row)) for row in dense])
    for way in ("graph", "call"):
        goal(f"dense against SDPA, batch 4 and 16, 512 to 2048 ({way})", 1.2,
             [(row["sdpa_over_dense"][way], at(row)) for row in dense
              if row["batch"] in (4, 16) and row["context"] <= 2048])
    for name in ("sparq", "sparf"):
        for way in ("graph", "call"):
            goal(f"{name} at 1/8 against dense, 32 K ({way})", 3.0,
                 [(row["dense_over"][name][way], at(row)) for row in mha if "dense_over" in row
                  and row["context"] == 32768])
    return [dict(zip(("figure", "required", "measured", "met", "at"), entry)) for entry in table]


def print_row(row):
    parts = [f"b{row['batch']} {row['heads']}/{row['kv_heads']} d{row['d_head']} "
             f"s{row['context']}: {row['of_read_bandwidth']:.3f} of read;"]
    for name, both in row["seconds"].items():
        parts.append(f"{name} {both['graph'] * 1e6:.1f}/{both['call'] * 1e6:.1f}")
    parts.append(f"us; SDPA/dense {row['sdpa_over_dense']['graph']:.2f}/"
                 f"{row['sdpa_over_dense']['call']:.2f}")
    for name, both in row.get("dense_over", {}).items():
        parts.append(f"dense/{name} {both['graph']:.2f}/{both['call']:.2f}")
    print(" ".join(parts), flush=True)


def driver():
    return subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                          capture_output=True, text=True, check=False).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shared_object", metavar="LIBRARY")
    parser.add_argument("--json")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    library = load(arguments.shared_object)
    torch.manual_seed(1)
    read = measure_read(library)
    result = {"device": torch.cuda.get_device_name(), "driver": driver(),
              "torch": torch.__version__, "cuda": torch.version.cuda,
              "date": datetime.date.today().isoformat(),
              "command": " ".join(["decode_attention_bench.py"] + sys.argv[1:]),
              "timing": __doc__.split("LIBRARY is")[1].split("timed in ")[1].split(" The table")[0]
                        .replace("\n", " "),
              "page_bytes": PAGE, "channels_per_group": CHANNELS_PER_GROUP,
              "read_bytes_per_second": read, "rows": []}
    print(f"{result['device']}, plain read {read / 1e9:.0f} GB/s; times are graph/call")
    points = [(b, 40, 40, 128, c, False) for b in (1, 4, 16, 64)
              for c in (512, 1024, 2048, 8192, 32768)]
    points += [(b, 40, 40, 128, 32768, True) for b in (1, 4, 16)]
    points += [(16, 32, 8, 128, 8192, True), (16, 64, 8, 128, 8192, True),
               (16, 32, 32, 64, 8192, True), (16, 32, 32, 80, 8192, True),
               (16, 9, 3, 64, 8192, True)]
    if arguments.quick:
        points = [point for point in points if point[0] * point[4] <= 16 * 8192]
    for point in points:
        try:
            row = measure(library, point, read)
        except torch.OutOfMemoryError:
            print(f"{point}: does not fit into this device's memory", flush=True)
            continue
        torch.cuda.empty_cache()
        result["rows"].append(row)
        print_row(row)
    result["goals"] = verdicts(result["rows"])
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    print(f"{'figure':<62} required measured verdict")
    for goal in result["goals"]:
        print(f"{goal['figure']:<62} {goal['required']:8.2f} {goal['measured']:8.2f} "
              f"{'met' if goal['met'] else 'missed'} (worst at {goal['at']})")


if __name__ == "__main__":
    main()
