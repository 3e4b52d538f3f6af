"""The methods' accuracy on the captured tensors of traces/fixtures, and what measures it.

Drives the shared library through validation/accuracy/kernels.py. Needs NEARKV_BUILD; numpy.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
SCRIPTS = SOURCE / "validation" / "accuracy"
SKIPPED, USER_ERROR = 77, 2
sys.path.insert(0, str(SCRIPTS))

try:
    import numpy
except ModuleNotFoundError:
    print("skipped: numpy is missing; install the Debian package python3-numpy")
    sys.exit(SKIPPED)

import captured  # noqa: E402
import configurations  # noqa: E402
import kernels  # noqa: E402
import report  # noqa: E402
import tensors  # noqa: E402

ROUNDING = 1e-5  # relative error of a float kernel with sums over some thousand tokens, generous


# -- The binding ---------------------------------------------------------------------------------


def random_cache(library, tokens=50, d_head=8):
    random = numpy.random.default_rng(1)
    k, v = random.normal(size=(2, 1, tokens, d_head)).astype(numpy.float16)
    queries = random.normal(size=(1, 2, d_head)).astype(numpy.float16)
    cache = library.cache(d_head, page_bytes=64, channels_per_group=2)
    library.append([cache], k, v)
    return cache, numpy.float64(k[0]), numpy.float64(v[0]), numpy.float64(queries)


def softmax(logits):
    weight = numpy.exp(logits - logits.max())
    return weight / weight.sum()


def sparq_by_formula(q, k, v, of):
    """Output, tokens and alpha, from methods.hpp's four steps."""
    channels = numpy.sort(numpy.argsort(-abs(q), kind="stable")[:of.r])
    temperature = math.sqrt(len(q) * abs(q[channels]).sum() / abs(q).sum())
    estimate = softmax(k[:, channels] @ q[channels] / temperature)
    preferred = estimate.copy()
    preferred[len(k) - of.local_window:] = numpy.inf
    tokens = numpy.sort(numpy.argsort(-preferred, kind="stable")[:of.k])
    alpha = estimate[tokens].sum()
    exact = softmax(k[tokens] @ q / math.sqrt(len(q))) @ v[tokens]
    return alpha * exact + (1 - alpha) * v.mean(axis=0), tokens, alpha


def check_sparq_by_formula(library):
    cache, k, v, queries = random_cache(library)
    of = kernels.method("sparq", r=3, k=12, local_window=4)
    found = library.attend([cache], queries, of, wanted=("alpha", "state", "tokens"))
    for head, q in enumerate(queries[0]):
        output, tokens, alpha = sparq_by_formula(q, k, v, of)
        assert numpy.allclose(found.output[0, head], output, rtol=0, atol=ROUNDING), head
        assert found.tokens[0, head, :of.k].tolist() == tokens.tolist(), head
        assert (found.tokens[0, head, of.k:] == -1).all(), head
        assert abs(found.alpha[0, head] - alpha) < ROUNDING, head
        logits = k[tokens] @ q / math.sqrt(len(q))
        total = found.sum[0, head] * math.exp(found.max[0, head])
        assert abs(total / numpy.exp(logits).sum() - 1) < ROUNDING, head


def error_of(call):
    try:
        call()
    except kernels.KernelError as error:
        return str(error)
    raise AssertionError("no error")


def check_errors(library):
    cache, k, v, queries = random_cache(library)
    dense = kernels.method("dense")
    for call, expected in (
            (lambda: library.attend([cache], queries, dense, [51]),
             "attention: context is 51; must be 1 to the 50 appended tokens"),
            (lambda: library.attend([cache], queries, kernels.method("h2o", heavy=1, recent=1)),
             "histories is null"),
            (lambda: library.append([cache], k, v),
             "k and v are (50, 8) and (50, 8); must be [1 caches, tokens, d_head]"),
            (lambda: library.attend([cache] * 2, queries, dense),
             "queries are for 1 caches; must be for 2"),
            (lambda: kernels.find_library("/nowhere/x.so"), "/nowhere/x.so: no such file; ")):
        assert error_of(call).startswith(expected), error_of(call)


def check_clone(library):
    cache, k, v, queries = random_cache(library)
    copy = library.clone(cache)
    library.append([copy], k[None], v[None])
    assert (library.tokens(cache), library.tokens(copy)) == (50, 100)
    first, second = (library.attend([each], queries, kernels.method("dense"), [50]).output
                     for each in (cache, copy))
    assert (first == second).all(), "the tokens before differ in the copy"


# -- The methods on captured tensors -------------------------------------------------------------


def by_method(summaries, method):
    """The summaries of a method, from the highest ratio down."""
    return sorted((row for row in summaries if row["method"] == method),
                  key=lambda row: -row["ratio"])


def check_sparf_is_sparq(_, outputs):
    for ratio in configurations.RATIOS:
        sparq, sparf = outputs[f"sparq at {ratio:g}"], outputs[f"sparf at {ratio:g}"]
        assert (sparq == sparf).all(), f"SparF's output is not SparQ's at {ratio}"


def check_ratio_one_is_dense(summaries, _):
    for row in summaries:
        if row["ratio"] == 1:
            assert row["error_mean"] < ROUNDING, row
            assert abs(row["kept_mass"] - 1) < ROUNDING and row["recall"] == 1, row
            assert row["traffic"] == (1.5 if "r" in row["options"] else 1), row


def check_traffic_is_the_ratio(summaries, _):
    for row in summaries:
        if row["ratio"] < 1:
            assert abs(row["traffic"] / row["ratio"] - 1) < 0.01, row


def check_monotone(summaries, _):
    """More traffic, less error and more of the mass."""
    for method in configurations.METHODS[1:]:
        rows = by_method(summaries, method)
        for more, less in zip(rows, rows[1:]):
            assert more["error_mean"] < less["error_mean"], (more, less)
            assert more["error_median"] < less["error_median"], (more, less)
            assert more["kept_mass"] > less["kept_mass"], (more, less)


def check_order_at_an_eighth(summaries, _):
    """SparF before H2O before StreamingLLM before a window, as in claim C29."""
    rows = {row["method"]: row for row in summaries if row["ratio"] == 0.125}
    for better, worse in (("sparf", "h2o"), ("h2o", "streaming"), ("streaming", "window")):
        assert rows[better]["kept_mass"] > rows[worse]["kept_mass"], (better, worse)
        assert rows[better]["error_mean"] < rows[worse]["error_mean"], (better, worse)


# -- Scripts and committed results ---------------------------------------------------------------


def same(found, expected, name):
    """Equal but for what another numpy may round in another way."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            same(found[key], expected[key], f"{name} {key}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-3, abs_tol=ROUNDING), (
            f"{name}: {found} instead of {expected}; run tensors.py again and look why")
    else:
        assert found == expected, f"{name}: {found} instead of {expected}"


def check_committed_results(capture, summaries):
    committed = report.read(report.RESULTS, "tensors")
    assert committed["capture"]["sha256"] == capture.sha256, "made from another capture"
    for found, expected in zip(summaries, committed["configurations"], strict=True):
        same(found, expected, f"{expected['method']} at {expected['ratio']}")


def check_readme():
    """Its tables are those of the results."""
    text = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    for title, lines in report.tables(report.RESULTS).items():
        for line in lines:
            assert line in text, f"{title}: not in README.md (print with report.py): {line}"


def small_capture(folder, **changes):
    """A capture file of random numbers: one layer, one KV head."""
    random = numpy.random.default_rng(2)
    prompt, steps, d_head, group = 40, 3, 8, 2
    arrays = {"layer.0.k": random.normal(size=(1, prompt + steps, d_head)),
              "layer.0.prefill_mass": numpy.full((1, prompt), group),
              "layer.0.q": random.normal(size=(group, steps, d_head)),
              "layer.0.v": random.normal(size=(1, prompt + steps, d_head))}
    metadata = {"format": "nearkv-captured-kv", "layers": "[0]", "kv_heads": "[0]",
                "d_head": str(d_head), "prompt_tokens": str(prompt), "steps": str(steps),
                "model_query_heads": str(group), "model_kv_heads": "1", **changes}
    header, data = {"__metadata__": metadata}, b""
    for name, array in arrays.items():
        added = array.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + len(added)]}
        data += added
    text = json.dumps(header).encode()
    path = folder / "small.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def run_tensors(*arguments):
    return subprocess.run([sys.executable, "-B", SCRIPTS / "tensors.py", *arguments],
                          capture_output=True, text=True, check=False)


def check_command(folder):
    out = folder / "out.json"
    done = run_tensors(small_capture(folder), "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["capture"]["file"] == "small.safetensors", result["capture"]
    assert result["command"].startswith("validation/accuracy/tensors.py "), result["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"]), result["date"]
    assert len(result["configurations"]) == 1 + 5 * len(configurations.RATIOS)
    assert len(done.stdout.splitlines()) == 1 + len(result["configurations"]), done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["out.json", "small.safetensors"]


def check_wrong_captures(folder):
    none = folder / "none.safetensors"
    none.write_bytes(b"x" * 20)
    for path, expected in (
            (none, f"{none}: no capture ("),
            (small_capture(folder, format="other"),
             f'{folder}/small.safetensors: format is "other"; must be "nearkv-captured-kv"'),
            (folder / "missing", "[Errno 2]")):
        done = run_tensors(path)
        assert done.returncode == USER_ERROR, done
        assert done.stderr.startswith(f"tensors.py: {expected}"), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    done = run_tensors(small_capture(folder, d_head="4"))
    assert done.returncode == USER_ERROR, done
    assert "layer.0.k is F32 [1, 43, 8]; must be F16 or F32 [1, 43, 4]" in done.stderr, done.stderr


def has_sanitizers():
    """Their runtime cannot be loaded into a Python that was built without."""
    cache = Path(os.environ.get("NEARKV_BUILD", SOURCE / "build" / "release")) / "CMakeCache.txt"
    found = re.search(r"^NEARKV_SANITIZE:\w+=(.+)$", cache.read_text(encoding="utf-8"), re.M)
    return found is not None


def main():
    if has_sanitizers():
        print("skipped: the library is built with sanitizers; kernels/c_interface_test.cpp covers "
              "the interface there")
        return SKIPPED
    library = kernels.Kernels(threads=2)
    for check in (check_sparq_by_formula, check_errors, check_clone):
        check(library)
    capture = captured.Capture(tensors.default_capture())
    summaries, outputs = tensors.measure(library, capture)
    for check in (check_sparf_is_sparq, check_ratio_one_is_dense, check_traffic_is_the_ratio,
                  check_monotone, check_order_at_an_eighth):
        check(summaries, outputs)
    check_committed_results(capture, summaries)
    check_readme()
    for check in (check_command, check_wrong_captures):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    print(tensors.table(summaries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
