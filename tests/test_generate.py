"""Images: what must hold of denoising, its three modes, and halting."""

from __future__ import annotations

import numpy
import pytest
import torch
from conftest import NEGATIVE, POSITIVE, close, mixture_of, of_expert, random_vae
from twins import scheduler_twin, unet_twin, vae_twin

from emoe import EMoE, EmoeError, Recipe
from emoe.denoise import denoise
from emoe.gate import HiddenGate, PromptGate, UniformGate
from emoe.generating import _above, denoising_steps
from emoe.images import to_images
from emoe.moe import mixtures
from emoe.schedule import SCHEDULERS, noises
from emoe.uncertainty import measure

PROMPTS, BLURRY = ["a red bus", "punainen bussi"], "blurry"
FEW = {"steps": 4, "size": 128}
EVERY_SCHEDULER = ["ddim", *(pytest.param(name, marks=pytest.mark.slow) for name in SCHEDULERS if name != "ddim")]


def model_of(base, experts, text, gate, split: str = "attn2", gated: bool = False) -> EMoE:
    return EMoE(mixture_of(base, experts, gated=gated), text, gate, split, load_vae=random_vae)


@pytest.fixture(scope="module")
def drawer(base, experts, text) -> EMoE:
    return model_of(base, experts, text, PromptGate(text(POSITIVE), text(NEGATIVE), top=2))


def latents(model: EMoE, prompts: list[str], negative: str = "", **told) -> torch.Tensor:
    """(p, b, 4, h, w), after the last step."""
    *_, last = denoising_steps(model, prompts, [negative] * len(prompts), Recipe(**{**FEW, **told}))
    return last.latents


def pixels_of(image) -> torch.Tensor:
    """(h, w, 3), 0 to 255."""
    return torch.from_numpy(numpy.array(image)).float()


# Beside diffusers ---------------------------------------------------------------------------------------------------


def pipeline(unet, text, scheduler):
    """diffusers' own, with the same networks."""
    diffusers = pytest.importorskip("diffusers")
    vae = random_vae()
    their_unet, their_vae = unet_twin(unet), vae_twin(vae.config)
    their_vae.load_state_dict(vae.state_dict())
    return diffusers.StableDiffusionPipeline(
        vae=their_vae, text_encoder=text.model, tokenizer=text.tokenizer, unet=their_unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def drawn_by_diffusers(unet, text, prompt: str, count: int, negative: str = "", scheduler: str = "ddim", **told):
    """After `count` steps: latents, and the pixels (h, w, 3) from 0 to 255."""
    them = pipeline(unet, text, scheduler_twin(scheduler, "epsilon", count))
    them.set_progress_bar_config(disable=True)
    them.scheduler.set_timesteps = lambda *_, **__: None  # `scheduler_twin` has set them
    found = them(
        prompt, negative_prompt=negative, num_inference_steps=count, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(3), **told,
    ).images  # fmt: skip
    with torch.inference_mode():
        image = them.vae.decode(found / them.vae.config.scaling_factor).sample
    return found, torch.from_numpy(them.image_processor.postprocess(image, "np")[0]) * 255


@pytest.mark.parametrize(
    ("mode", "scheduler", "guidance", "count"),
    [
        ("mixture", "ddim", 7.5, 10),
        pytest.param("mixture", "ddim", 7.5, 25, marks=pytest.mark.slow),
        pytest.param("mixture", "ddpm", 7.5, 25, marks=pytest.mark.slow),
        pytest.param("mixture", "dpm++", 7.5, 25, marks=pytest.mark.slow),
        pytest.param("mixture", "ddim", 1.0, 25, marks=pytest.mark.slow),
        pytest.param("emoe", "ddpm", 7.5, 25, marks=pytest.mark.slow),
    ],
)
def test_identical_experts_draw_what_diffusers_draws(base, text, mode, scheduler, guidance, count):
    model = model_of(base, [base] * 2, text, UniformGate(2))
    told = {"mode": mode, "scheduler": scheduler, "guidance": guidance, "steps": count, "seed": 3}
    found = latents(model, ["a red bus"], BLURRY, **told)[:, 0]
    z, pixels = drawn_by_diffusers(base, text, "a red bus", count, BLURRY, scheduler, guidance_scale=guidance)
    assert len(found) == (2 if mode == "emoe" else 1)
    for path, image in zip(found, to_images(model.vae, found), strict=True):
        assert close(path[None], z) < 1e-4
        assert (pixels_of(image) - pixels).abs().max() <= 2


@pytest.mark.parametrize("scheduler", EVERY_SCHEDULER)
def test_a_one_hot_route_draws_what_its_expert_draws(experts, text, scheduler):
    """The base with expert 3's mixed layers is expert 3, where the base is expert 3."""
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=1)
    model = model_of(experts[2], experts, text, gate)
    prompt = POSITIVE[2]
    assert gate(text([prompt])).tolist() == [[0, 0, 1, 0]]
    z, pixels = drawn_by_diffusers(experts[2], text, prompt, 10, scheduler=scheduler)
    found = latents(model, [prompt], mode="mixture", scheduler=scheduler, steps=10, seed=3)[0]
    assert close(found, z) < 1e-4
    assert (pixels_of(to_images(model.vae, found)[0]) - pixels).abs().max() <= 2


# Modes --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_batch_everybody_keeps_their_own(drawer):
    """Scores, negative prompts and images, also where some halt."""
    prompts, negatives = [*PROMPTS, "a cat"], ["", BLURRY, "photo"]
    alone = [drawer.generate(p, n, mode="fast", **FEW)[0] for p, n in zip(prompts, negatives, strict=True)]
    limit = max(g.scores.uncertainty.item() for g in alone[1:]) * (1 + 1e-4)
    seen = []
    together = drawer.stream_images(
        prompts,
        negatives,
        Recipe("fast", max_uncertainty=limit, **FEW),
        3,
        lambda scores: seen.append(len(scores.prompts)),
    )
    for one, other in zip(alone, together, strict=True):
        assert other.scores.eu.item() == pytest.approx(one.scores.eu.item(), rel=1e-5)
        assert other.halted == (one.scores.uncertainty.item() > limit)
        if not other.halted:
            assert (pixels_of(one.images[0]) - pixels_of(other.images[0])).abs().max() <= 1
    assert seen == [3] * FEW["steps"]


def test_the_limit_is_not_above_the_limit(drawer):
    """Nor is what a record, or a reference, says of the number, which has six digits."""
    scored = drawer.score(PROMPTS, **FEW)
    for i, record in enumerate(scored.records()):
        assert not drawer.generate(PROMPTS[i], mode="fast", max_uncertainty=record["uncertainty"], **FEW)[0].halted
        limit = scored.uncertainty[i].item()
        assert not drawer.generate(PROMPTS[i], mode="fast", max_uncertainty=limit, **FEW)[0].halted


def test_what_is_above_a_limit_whichever_way_six_digits_round():
    up, down = torch.tensor(0.058205388), torch.tensor(0.058205412)  # both 0.0582054 in records
    for value in (up, down):
        assert not _above(value, value.item())
        assert not _above(value, 0.0582054)
        assert _above(value, 0.0582053)


def test_latents_are_wider_than_the_network(base, experts, text):
    model = EMoE(mixture_of(base, experts).bfloat16(), text, UniformGate(4), load_vae=random_vae)
    assert latents(model, ["a"]).dtype == torch.float32


def test_guidance_is_worked_out_in_float32():
    """The same noise from a network in half precision makes the same latents."""
    noise, m, text = torch.randn(2, 4, 8, 8).bfloat16(), torch.zeros(2, 1, 1, 1), torch.zeros(1, 1, 1)

    def run(dtype):
        def unet(*_):
            return noise.to(dtype), m, m

        unet.conv_in = torch.nn.Conv2d(4, 4, 1, dtype=dtype)
        *_, last = denoise(unet, noises(0, (1, 4, 8, 8)), text, text, None, steps=3)
        return last.latents

    assert torch.equal(run(torch.bfloat16), run(torch.float32))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_loop_is_diffusers(name):
    """With a network that takes no time: two prompts, guidance, what each step hands to the next."""
    mix, text, negative = torch.randn(4, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)

    def unet(x, t, states, route):
        return (torch.einsum("oc, bchw -> bohw", mix, x) + states.mT[..., None]).tanh(), x, x

    unet.conv_in = torch.nn.Conv2d(4, 4, 1)
    runs = [(scheduler_twin(name, "epsilon", 5), torch.Generator().manual_seed(0)) for _ in range(2)]
    z = [torch.randn(1, 4, 8, 8, generator=generator) for _, generator in runs]
    for step in denoise(unet, noises(0, (1, 4, 8, 8)), text, negative, None, scheduler=name, steps=5, guidance=3.0):
        assert torch.allclose(step.m_post[0], torch.cat(z), rtol=1e-3, atol=1e-4)  # of the conditional half
        for i, (scheduler, generator) in enumerate(runs):
            without, told = (unet(z[i], None, states[i : i + 1], None)[0] for states in (negative, text))
            more = {} if name == "dpm++" else {"generator": generator}
            z[i] = scheduler.step(without + 3 * (told - without), step.timestep, z[i], **more).prev_sample
        assert torch.allclose(step.latents[0], torch.cat(z), rtol=1e-3, atol=1e-4)


def test_fast_draws_what_mixture_draws_and_scores_what_score_scores(drawer):
    fast = drawer.generate(PROMPTS, BLURRY, mode="fast", **FEW)
    mixture = drawer.generate(PROMPTS, BLURRY, mode="mixture", **FEW)
    scores = drawer.score(PROMPTS, BLURRY, **FEW)
    for i, (a, b) in enumerate(zip(fast, mixture, strict=True)):
        assert a.images[0].tobytes() == b.images[0].tobytes()
        assert a.scores.eu.item() == scores.at(i).eu.item()
        assert b.scores is None
        assert "eu" not in b.record()


def test_a_prompts_images_are_its_paths_in_order(drawer):
    found = latents(drawer, PROMPTS, steps=1, size=64)
    for i, generation in enumerate(drawer.generate(PROMPTS, batch_size=2, steps=1, size=64)):
        expected = to_images(drawer.vae, found[:, i])
        assert [image.tobytes() for image in generation.images] == [image.tobytes() for image in expected]


def test_the_number_over_several_noises_and_the_image_of_the_first(drawer):
    one, three = (drawer.generate("a red bus", mode="fast", seed=3, seeds=seeds, **FEW)[0] for seeds in (1, 3))
    assert three.images[0].tobytes() == one.images[0].tobytes()
    scores = drawer.score("a red bus", seed=3, seeds=3, **FEW)
    assert three.scores.uncertainty.item() == pytest.approx(scores.uncertainty.item(), rel=1e-5)
    assert three.scores.uncertainty != one.scores.uncertainty
    record = three.record()
    assert record["seeds"] == len(record["by_seed"]) == 3
    assert record["aleatoric"] > 0
    assert record["by_seed"][0] == pytest.approx(one.record()["uncertainty"], rel=1e-5)
    assert "by_seed" not in one.record()


def test_a_halt_by_the_other_estimator(drawer):
    asked = {"read_out": "pre", "estimator": "eu-over-answer"}
    low, high = drawer.score(PROMPTS, **asked, **FEW).uncertainty.sort().values.tolist()
    drawn = drawer.generate(PROMPTS, mode="fast", max_uncertainty=(low + high) / 2, batch_size=2, **asked, **FEW)
    assert sorted(one.scores.uncertainty.item() for one in drawn) == pytest.approx([low, high], rel=1e-4)
    assert [one.halted for one in drawn] == [one.scores.uncertainty > (low + high) / 2 for one in drawn]
    assert drawn[0].record()["estimator"] == "eu-over-answer"
    assert drawn[0].record()["timestep"] == drawn[0].scores.reading.timestep == 751
    drawing = drawer.stream_images(["a", "<|endoftext|>"], recipe=Recipe("fast", **asked, **FEW), batch_size=1)
    with pytest.raises(EmoeError, match=r"'<\|endoftext\|>' is empty"):  # before the first is drawn
        next(drawing)


def test_the_paths_of_the_first_step_have_the_uncertainty_of_the_score(drawer):
    """Algorithm 1 reads it there; `generate` asks `score`, which does not run the way up."""
    first = next(denoising_steps(drawer, PROMPTS, ["", ""], Recipe(**FEW)))
    assert first.latents.shape == (4, 2, 4, 16, 16)
    assert torch.allclose(measure(first.m_post[None]).eu, drawer.score(PROMPTS, **FEW).eu, rtol=1e-4)
    assert torch.allclose(measure(first.m_pre[None]).eu, drawer.score(PROMPTS, read_out="pre", **FEW).eu, rtol=1e-4)


@pytest.mark.parametrize("gated", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["prompt", "hidden"])
@pytest.mark.parametrize("scheduler", EVERY_SCHEDULER)
def test_each_path_is_a_separate_run(base, experts, text, scheduler, gated):
    """The first step in a network whose split layer knows one expert alone, the others in the mixture."""
    gate = HiddenGate(4, 2) if gated else PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    model = model_of(base, experts, text, gate, gated=gated)
    told = FEW | ({"steps": 2} if scheduler == "ddim" else {})  # it remembers nothing of the steps before
    found = latents(model, PROMPTS, BLURRY, scheduler=scheduler, **told)
    assert len({tuple(path.flatten().tolist()) for path in found}) == 4
    for i in range(4):
        unet = of_expert(model.unet, "attn2", i)
        run = denoising_steps(EMoE(unet, text, gate), PROMPTS, [BLURRY] * 2, Recipe("mixture", scheduler, **told))
        next(run)
        for mixture, whole in zip(mixtures(unet).values(), mixtures(model.unet).values(), strict=True):
            mixture.experts = whole.experts
        *_, last = run
        assert close(found[i], last.latents[0]) < 1e-4


@pytest.mark.parametrize("gated", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["prompt", "hidden"])
@pytest.mark.parametrize("mode", ["emoe", "mixture"])
def test_batch_mates_do_not_matter(base, experts, text, mode, gated):
    gate = HiddenGate(4, 2) if gated else PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    model = model_of(base, experts, text, gate, gated=gated)
    together = latents(model, PROMPTS, mode=mode, scheduler="ddpm")
    for i, prompt in enumerate(PROMPTS):
        assert close(together[:, i], latents(model, [prompt], mode=mode, scheduler="ddpm")[:, 0]) < 1e-4


@pytest.mark.slow
def test_the_split_may_lie_elsewhere(base, experts, text):
    gate = UniformGate(4)
    found = [latents(model_of(base, experts, text, gate, split), ["a"]) for split in ("attn1", "attn2", "ff")]
    assert all(len(paths) == 4 for paths in found)
    assert close(found[0], found[1]) > 1e-3
    assert close(found[1], found[2]) > 1e-3


@pytest.mark.slow
def test_settings_matter(drawer):
    def run(**told):
        return latents(drawer, ["a"], mode="mixture", **told)

    plain = run()
    for told in ({"seed": 1}, {"scheduler": "ddpm"}, {"scheduler": "dpm++"}, {"guidance": 1.0}, {"steps": 5}):
        assert not torch.equal(run(**told), plain), told
    assert torch.equal(run(), plain)
    assert not torch.equal(latents(drawer, ["a"], BLURRY, mode="mixture"), plain)


@pytest.mark.slow
def test_v_prediction_is_another_run(base, experts, text):
    model = model_of(base, experts, text, UniformGate(4))
    plain = latents(model, ["a"])
    model.prediction_type = "v"
    assert close(latents(model, ["a"]), plain) > 1e-3


def test_the_vaes_mark_is_of_the_vae_and_of_how_latents_are_read(model):
    def mark(seed: int = 0, prediction_type: str = "epsilon") -> str:
        told = {"prediction_type": prediction_type, "load_vae": lambda: random_vae(seed=seed)}
        return EMoE(model.unet, model.text, model.gate, **told).vae_mark

    assert len({mark(), mark(seed=1), mark(prediction_type="v")}) == 3
    assert mark() == mark()


def test_without_guidance_the_negative_half_does_not_run(drawer):
    seen = []
    hook = drawer.unet.conv_in.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    latents(drawer, PROMPTS, mode="mixture", guidance=1.0)
    latents(drawer, PROMPTS, mode="mixture")
    latents(drawer, PROMPTS)
    hook.remove()
    assert seen == [2] * 4 + [4] * 4 + [4] + [4 * 4] * 3


# Halting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "emoe"])
def test_what_halts_costs_the_split_trunk_and_nothing_more(drawer, mode):
    rows: dict[str, list[int]] = {}
    hooks = [
        module.register_forward_hook(lambda _, args, out, name=name: rows.setdefault(name, []).append(len(out)))
        for name, module in drawer.unet.named_modules()
        if not list(module.children())
    ]
    found = drawer.generate("a red bus", mode=mode, max_uncertainty=0.0, **FEW)[0]
    for hook in hooks:
        hook.remove()
    assert found.halted
    assert found.images == []
    assert found.record()["halted"] is True
    assert found.scores.eu.item() == drawer.score("a red bus", **FEW).eu.item()
    assert not any(name.startswith(("up_blocks", "conv_out")) for name in rows)
    assert rows["conv_in"] == [1]
    assert rows["mid_block.resnets.1.conv2"] == [4]


def test_only_the_uncertain_halt(drawer):
    uncertainty = drawer.score(PROMPTS, **FEW).uncertainty
    limit = uncertainty.mean().item()
    rows = []
    hook = drawer.unet.conv_in.register_forward_hook(lambda _, args, out: rows.append(len(out)))
    found = drawer.generate(PROMPTS, mode="fast", max_uncertainty=limit, batch_size=2, **FEW)
    hook.remove()
    assert [g.halted for g in found] == (uncertainty > limit).tolist()
    assert rows == [2] + [2] * FEW["steps"]  # both prompts' trunk, then both guidance halves of one
    drawn = next(g for g in found if not g.halted)
    alone = drawer.generate(drawn.prompt, mode="mixture", **FEW)[0]
    assert (pixels_of(drawn.images[0]) - pixels_of(alone.images[0])).abs().max() <= 1

    negatives = ["blurry photo", "cartoon"]
    limit = drawer.score(PROMPTS, negatives, **FEW).uncertainty.mean().item()
    found = drawer.generate(PROMPTS, negatives, mode="fast", max_uncertainty=limit, batch_size=2, **FEW)
    drawn = next(g for g in found if not g.halted)  # guided away from its own negative prompt
    alone = drawer.generate(drawn.prompt, drawn.negative_prompt, mode="mixture", **FEW)[0]
    assert (pixels_of(drawn.images[0]) - pixels_of(alone.images[0])).abs().max() <= 1


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"mode": "slow"}, "mode is 'slow'; choose one of emoe, fast, mixture"),
        ({"scheduler": "euler"}, "scheduler is 'euler'; choose one of ddim, ddpm, dpm"),
        ({"guidance": 0.5}, "guidance is 0.5"),
        ({"guidance": 101}, "guidance is 101"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": True}, "guidance is True; it must be a number"),
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"steps": 0}, "steps is 0"),
        ({"size": 100}, "size is 100 pixels"),
        ({"max_uncertainty": -1}, "max_uncertainty is -1"),
        ({"max_uncertainty": float("nan")}, "max_uncertainty is nan"),
        ({"mode": "mixture", "max_uncertainty": 0}, "no uncertainty, so max_uncertainty = 0.0 says nothing"),
        ({"mode": "mixture", "seeds": 2}, "no uncertainty, so seeds = 2"),
        ({"mode": "mixture", "read_out": "pre"}, "no uncertainty, so read_out = 'pre'"),
        ({"mode": "mixture", "estimator": "eu-over-answer"}, "no uncertainty, so estimator"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_recipes_that_cannot_be(told, sentence):
    with pytest.raises(EmoeError, match=sentence):
        Recipe(**told)


def test_latents_that_are_not_finite_are_an_error(base, experts, text):
    model = model_of(base, experts, text, UniformGate(4))
    model.unet.conv_out.bias = torch.nn.Parameter(torch.full((4,), float("nan")), requires_grad=False)
    with pytest.raises(EmoeError, match="'a cat': activations are not finite"):
        model.generate("a cat", **FEW)


def test_pixels_that_are_not_finite_are_an_error(base, experts, text):
    model = model_of(base, experts, text, UniformGate(4))
    model.vae.decoder.conv_out.bias = torch.nn.Parameter(torch.full((3,), float("inf")), requires_grad=False)
    with pytest.raises(EmoeError, match="name another under vae"):
        model.generate("a cat", mode="mixture", **FEW)


def test_a_model_without_a_vae_scores_but_does_not_draw(model):
    with pytest.raises(EmoeError, match="without a VAE"):
        model.generate("a cat", **FEW)
