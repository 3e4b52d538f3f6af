"""validation/accuracy/perplexity.py on a small random model: the kernels compute its attention.

Needs NEARKV_BUILD and the packages of traces/requirements.txt; skipped without them.
"""

import argparse
import math
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
SKIPPED = 77
sys.path.insert(0, str(SOURCE / "validation" / "accuracy"))

try:
    import torch
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
    from transformers.masking_utils import AttentionMaskInterface, eager_mask
except ModuleNotFoundError as error:
    print(f"skipped: {error.name} is missing; install the packages of traces/requirements.txt")
    sys.exit(SKIPPED)

import configurations  # noqa: E402
import kernels  # noqa: E402
import perplexity  # noqa: E402

PROMPT, STEPS, LAYERS = 60, 20, 3
AGREEMENT = 1e-3  # of two mean losses; K and V are rounded to FP16


def small_model():
    """Weights large enough that attention is far from even; two query heads a KV head."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=50,
                         max_position_embeddings=256, initializer_range=0.2)
    attention = perplexity.KernelAttention(kernels.Kernels())
    AttentionInterface.register(perplexity.capture.ATTENTION, attention)
    AttentionMaskInterface.register(perplexity.capture.ATTENTION, eager_mask)
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation(perplexity.capture.ATTENTION)
    return model, attention


def run(ratios):
    model, attention = small_model()
    options = argparse.Namespace(prompt_tokens=PROMPT, steps=STEPS,
                                 methods=configurations.METHODS, ratios=ratios, count="traffic")
    tokens = torch.randint(0, 50, (PROMPT + STEPS,), generator=torch.Generator().manual_seed(4))
    segment = perplexity.Runner(options, model, attention).run("random", tokens)
    return segment, {str(each): loss for each, loss in zip(segment.chosen, segment.losses)}


def check_everything_read_is_the_models_own():
    """Positions, order of heads, caches: dense, and each method that leaves nothing out."""
    segment, losses = run([1.0])
    assert len(losses) == len(configurations.METHODS), losses
    for name, loss in losses.items():
        assert abs(loss - segment.own_loss) < AGREEMENT, (name, loss, segment.own_loss)


def check_methods_differ():
    """Each leaves out what it should, in every step."""
    segment, losses = run([0.25])
    dense = losses.pop("dense at 1")
    assert abs(losses["sparq at 0.25"] - losses["sparf at 0.25"]) < AGREEMENT, losses
    for name, loss in losses.items():
        assert abs(loss - dense) > 5 * AGREEMENT, (name, loss, dense)
    for each, traffic in zip(segment.chosen, segment.traffic):
        # A ratio is rounded to whole channels and tokens.
        assert math.isclose(traffic, each.ratio, rel_tol=0.05), (str(each), traffic)


def main():
    for check in (check_everything_read_is_the_models_own, check_methods_differ):
        check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
