"""The whole method once more, written differently: one diffusers network per path, numpy for gate and number.

Nothing of emoe's route, mixtures, split or variance is used, only its text states and the experts' weights.
"""

from __future__ import annotations

import copy

import numpy
import pytest
import torch
from conftest import NEGATIVE, POSITIVE, mixture_of
from twins import unet_twin

from emoe.gate import PromptGate
from emoe.pipeline import EMoE

PROMPTS, BLURRY = ["a red bus", "punainen bussi", "a cat on a mat, oil painting", ""], "blurry"


class WeightedSum(torch.nn.Module):
    """Of feed-forwards, which cannot be merged into one."""

    def __init__(self, weights, layers):
        super().__init__()
        self.weights, self.layers = weights, torch.nn.ModuleList(layers)

    def forward(self, x, *_):
        return sum(w * layer(x) for w, layer in zip(self.weights, self.layers, strict=True))


def path(base, experts, weights, alone: int):
    """The base with every mixture merged by the prompt's weights, and expert `alone` in the first cross-attention."""
    unet = copy.deepcopy(base)
    for name, block in unet.named_modules():
        if not name.endswith("transformer_blocks.0") or name.startswith("mid_block"):
            continue
        blocks = [expert.get_submodule(name) for expert in experts]
        first = name == "down_blocks.0.attentions.0.transformer_blocks.0"
        for leaf in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "attn2.to_k", "attn2.to_v"):
            one_hot = numpy.eye(len(experts))[alone]
            ws = one_hot if first and leaf.startswith("attn2") else weights
            layers = [b.get_submodule(leaf) for b in blocks]
            block.get_submodule(leaf).weight.data = sum(
                float(w) * layer.weight for w, layer in zip(ws, layers, strict=True)
            )
        block.ff = WeightedSum([float(w) for w in weights], [b.ff for b in blocks])
    return unet


def middle(unet, z, states) -> dict[str, numpy.ndarray]:
    """What enters and leaves the mid-block."""
    seen = {}
    unet.mid_block.register_forward_hook(lambda _, args, out: seen.update(pre=args[0].numpy(), post=out.numpy()))
    unet(z, 961, states)
    return seen


def phi(text, prompt: str) -> numpy.ndarray:
    """The mean state of the content tokens and the first end token, normalised."""
    length = len(text.tokenizer(prompt, truncation=True, max_length=77)["input_ids"])
    mean = text([prompt]).states[0, 1:length].double().numpy().mean(axis=0)
    return mean / numpy.linalg.norm(mean)


def route(text, prompt: str, negative: str, top: int) -> numpy.ndarray:
    logits = numpy.array([phi(text, prompt) @ phi(text, p) for p in POSITIVE])
    if negative:
        logits += numpy.array([phi(text, negative) @ phi(text, n) for n in NEGATIVE])
    chosen = numpy.argsort(-logits)[:top]
    weights = numpy.zeros(len(logits))
    weights[chosen] = numpy.exp(logits[chosen]) / numpy.exp(logits[chosen]).sum()
    return weights


@pytest.mark.parametrize(
    ("read_out", "negative", "top"),
    [
        ("post", BLURRY, 3),
        pytest.param("post", "", 2, marks=pytest.mark.slow),
        pytest.param("pre", BLURRY, 2, marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_uncertainty(base, experts, text, read_out, negative, top):
    config = base.config
    theirs = [unet_twin(unet) for unet in (base, *experts)]

    model = EMoE(mixture_of(base, experts), text, PromptGate(text(POSITIVE), text(NEGATIVE), top=top))
    found = model.score(PROMPTS, negative, seed=5, seeds=2, read_out=read_out, batch_size=4)

    for i, prompt in enumerate(PROMPTS):
        weights = route(text, prompt, negative, top)
        assert numpy.allclose(found.weights[i], weights, atol=1e-5)
        networks = [path(theirs[0], theirs[1:], weights, alone) for alone in range(4)]
        m = []
        for seed in (5, 6):
            torch.manual_seed(seed)
            z = torch.randn(1, 4, config.sample_size, config.sample_size)
            m += [middle(unet, z, text([prompt]).states)[read_out] for unet in networks]
        m = numpy.array(m, dtype=numpy.float64).reshape(2, 4, -1)  # seeds, paths, d_mid
        eu = m.var(axis=1).mean()
        assert found.eu[i].item() == pytest.approx(eu, rel=1e-4)
        assert found.uncertainty[i].item() == pytest.approx(m.shape[-1] ** 0.5 * eu, rel=1e-4)
        assert found.aleatoric[i].item() == pytest.approx(m.mean(axis=1).var(axis=0).mean(), rel=1e-4)
