"""Images with their uncertainty: the paper's Algorithm 1 (mode "emoe") and its fast variant.

Axes: b prompts, p paths, h w latent pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from einops import rearrange
from torch import Tensor

from emoe.denoise import Denoised, denoise
from emoe.device import check_finite
from emoe.generations import Generation, Recipe
from emoe.images import to_images
from emoe.model import Model
from emoe.schedule import noises
from emoe.scores import Scores, short
from emoe.scoring import score

Watch = Callable[[Scores | None], None]  # called after every step of a batch, with what was measured before it


def generate(
    model: Model,
    prompts: list[str],
    negatives: list[str],
    recipe: Recipe,
    watch: Watch = lambda scores: None,
    m_empty: Tensor | None = None,
) -> Iterator[Generation]:
    """All of them at once, in order. The recipe has a size. m_empty: as for `score`.

    The number comes first, as `score` reads it, so that what halts has cost the split trunk and nothing more. With the
    hidden gate it is therefore that of the conditional half's own choice of experts; the image's serves both halves.
    """
    scores = None if recipe.mode == "mixture" else score(model, prompts, negatives, recipe.reading, m_empty)
    limit = recipe.max_uncertainty
    going_on = [i for i in range(len(prompts)) if limit is None or not _above(scores.uncertainty[i], limit)]
    latents = {}
    if going_on:
        some = [prompts[i] for i in going_on], [negatives[i] for i in going_on]
        latents = dict(zip(going_on, _run(model, *some, recipe, lambda: watch(scores)), strict=True))
    for i, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        images = to_images(model.vae, latents[i]) if i in latents else []
        own = None if scores is None else scores.at(i)
        yield Generation(prompt, negative, images, own, recipe, model.mixture, model.vae_mark)


def _above(uncertainty: Tensor, limit: float) -> bool:
    """Unrounded and as records round it, so that a limit copied from a record does not halt its own prompt."""
    return min(uncertainty.item(), short(uncertainty)) > limit


def _run(
    model: Model, prompts: list[str], negatives: list[str], recipe: Recipe, watch: Callable[[], None]
) -> Iterator[Tensor]:
    """To the end: each prompt's latents, (p, 4, h, w)."""
    for step in denoising_steps(model, prompts, negatives, recipe):
        check_finite(prompts, step.latents.mean(dim=(0, 2, 3, 4)), model.dtype)
        watch()
    yield from rearrange(step.latents, "p b ... -> b p ...")


def denoising_steps(model: Model, prompts: list[str], negatives: list[str], recipe: Recipe) -> Iterator[Denoised]:
    """The run step by step, with what every path showed at the mid-block: for studies over steps."""
    text, negative = model.encode(prompts), model.encode(negatives)
    guided = recipe.guidance > 1
    return denoise(
        model.unet,
        noises(recipe.seed, model.latent_shape(recipe.size)),
        text.states.to(model.dtype),
        negative.states.to(model.dtype) if guided else None,
        model.route(text, negative, halves=2 if guided else 1, split=recipe.mode == "emoe"),
        scheduler=recipe.scheduler,
        steps=recipe.steps,
        guidance=recipe.guidance,
        prediction_type=model.prediction_type,
    )
