"""Every other number that needs no training, from the same noise and the same forward as the paper's.

Higher is more uncertain, in all of them. Sources: PaiDE from Berry & Meger (arXiv 2308.13498) and DECU (Berry et al.,
PMLR v244), over the posteriors that the paths' guided noise gives for the next latent; the gate's entropy, margin and
spread as router scores of mixtures of experts are usually taken.

Axes: b prompts, e experts (paths), r captions, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from emoe.model import Model
from emoe.schedule import BARS, ddim, estimate, posterior_mean, posterior_sigma
from emoe.study.observe import Observed
from emoe.text import TextStates
from emoe.uncertainty import answer, population_variance

Baseline = Callable[[Observed], Tensor]  # (b,)


# Variance over the paths, where they can be tapped -------------------------------------------------------------------


def variance(x: Tensor) -> Tensor:
    """(e, b, ...) -> (b,): over the paths, averaged over everything else."""
    return population_variance(x, dim=0).flatten(1).mean(dim=1)


# PaiDE: the entropy of a mixture of Gaussians, as far as the components' distances show it ---------------------------


def distances(seen: Observed, name: str) -> Tensor:
    """(b, e, e) between the paths' distributions of the next latent, N(mean_i, sigma^2 I).

    name: "KL" or "Bhattacharyya", with DDPM's mean and sigma (DDIM has none; nan at a run's last step, where sigma is
    0); "W2", squared, with DDIM's mean.
    """
    if name == "W2":
        return squared_distances(next_latents(seen))
    between = squared_distances(posterior_mean(seen.timestep, seen.to, seen.z, seen.now))
    return between / {"KL": 2, "Bhattacharyya": 8}[name] / posterior_sigma(seen.timestep, seen.to) ** 2


def paide(distance: Tensor, scale: float = 1.0) -> Tensor:
    """(b, e, e) -> (b,): I = -mean_i ln mean_j exp(-D_ij / scale), between 0 and ln e.

    scale: 1 is faithful, and saturates: one step of 25 brings every prompt to ln e.  The latent's dimension, or the
    median distance over other prompts, keeps prompts apart.
    """
    count = distance.shape[-1]
    return math.log(count) - (-distance / scale).logsumexp(dim=-1).mean(dim=-1)


def mean_distance(distance: Tensor) -> Tensor:
    """(b, e, e) -> (b,): over the pairs of different paths. Never saturates; of W2, it ranks as Var(z) does."""
    count = distance.shape[-1]
    return distance.sum(dim=(-2, -1)) / (count * (count - 1))


def next_latents(seen: Observed) -> Tensor:
    """(e, b, 4, h, w): each path's next latent, by DDIM."""
    return ddim(seen.timestep, seen.to, seen.z, seen.now, None, lambda: seen.z)


def squared_distances(x: Tensor) -> Tensor:
    """(e, b, ...) -> (b, e, e): squared distances between paths, in float64."""
    x = x.cpu().double().flatten(2).transpose(0, 1)  # (b, e, d)
    return (x[:, :, None] - x[:, None]).square().sum(dim=-1)


def answered(seen: Observed) -> Tensor:
    """(b,): how far the prompt moves the mid-block, as "eu-over-answer" takes it after the mid-block."""
    return answer(seen.m_post[None], seen.m_empty[None])[:, 0]


def _dimension(seen: Observed) -> int:
    return seen.z[0].numel()


def _paide(name: str, scaled: bool) -> Baseline:
    return lambda seen: paide(distances(seen, name), _dimension(seen) if scaled else 1.0)


# The gate ------------------------------------------------------------------------------------------------------------


def entropy(p: Tensor) -> Tensor:
    """(b, e) -> (b,), in nats."""
    return torch.special.entr(p).sum(dim=-1)


def margin(logits: Tensor) -> Tensor:
    """1 - (the largest share - the next one), shares over all experts."""
    first, second = logits.softmax(dim=-1).topk(2, dim=-1).values.unbind(dim=-1)
    return 1 - (first - second)


def spread(logits: Tensor) -> Tensor:
    """A gate that tells experts apart is sure: minus the variance of its logits."""
    return -logits.var(dim=-1, correction=0)


# The tables ----------------------------------------------------------------------------------------------------------


BASELINES: dict[str, Baseline] = {
    "Var(m_pre)": lambda seen: variance(seen.m_pre),
    "Var(m_post)": lambda seen: variance(seen.m_post),  # the paper's; the hidden gate chooses for both halves here
    "Var(z)": lambda seen: variance(next_latents(seen)),  # guided; ranks as Var(noise) does
    "Var(noise)": lambda seen: variance(seen.unguided.noise),
    **{f"PaiDE {name}": _paide(name, False) for name in ("KL", "Bhattacharyya", "W2")},
    **{f"PaiDE {name}, D/d": _paide(name, True) for name in ("KL", "Bhattacharyya", "W2")},
    "mean W2": lambda seen: mean_distance(distances(seen, "W2")),
    "silence": lambda seen: -answered(seen),  # no disagreement at all: how little the prompt does
    "tokens": lambda seen: -seen.tokens.float(),  # shorter is more uncertain, as in the paper's Table 1
}
GATED: dict[str, Baseline] = {  # where the gate has logits
    "gate entropy, all": lambda seen: entropy(seen.logits.softmax(dim=-1)),
    "gate entropy, chosen": lambda seen: entropy(seen.weights),
    "gate margin": lambda seen: margin(seen.logits),
    "gate spread": lambda seen: spread(seen.logits),
}


@torch.inference_mode()
def classifier_error(model: Model, text: TextStates, seen: Observed, timestep: int = 481, seed: int = 1000) -> Tensor:
    """The diffusion classifier's error, for a prompt that has no image yet. (b,), mean square.

    A diffusion classifier noises an image and asks how well the network finds the noise again, given the prompt. Before
    generation there is no image, so this takes the one that the paths' mean predicts at the step observed (without
    guidance), gives it fresh noise to `timestep`, and lets the ordinary mixture find that. One forward more.
    """
    image, bar = seen.unguided.image.mean(dim=0), BARS[timestep]
    fresh = model.noise(seed, model.downsampling * seen.z.shape[-1])
    z = (bar**0.5 * image + (1 - bar) ** 0.5 * fresh).to(model.dtype)
    t = torch.tensor([timestep], device=model.device)
    out = model.unet(z, t, text.states.to(model.dtype), model.route(text, None, split=False))
    found = estimate(z, out.prediction, timestep, model.prediction_type).noise
    return (found.float() - fresh).square().mean(dim=(1, 2, 3))
