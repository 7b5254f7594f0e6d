"""What must hold of mixtures, routes, the split and the number (docs/method.md)."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import NEGATIVE, POSITIVE, close, mixture_of, of_expert, sample, uniform_model

from emoe.errors import EmoeError
from emoe.gate import HiddenGate, PromptGate, UniformGate
from emoe.moe import Mixture, mix, mixed_layers, mixtures, origin
from emoe.moe.mixture import LinearMixture
from emoe.pipeline import EMoE
from emoe.route import HiddenRoute, OneHot, PromptRoute, choose
from emoe.uncertainty import by_path, measure
from emoe.unet import UNet

PROMPTS = ["a red bus", "", "punainen bussi", "a cat on a mat, oil painting"]
LAYERS = ["attn", "ff", "all"]


def routes(rows: int, experts: int = 4) -> list:
    """One of every kind."""
    weights = torch.rand(rows, experts, generator=torch.Generator().manual_seed(0)).softmax(-1)
    top1 = torch.eye(experts)[:rows]
    return [PromptRoute(weights), PromptRoute(top1), HiddenRoute(rows, experts, 2), HiddenRoute(rows, experts, experts)]


# Mixtures (2, in docs/method.md) -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", LAYERS)
@torch.inference_mode()
def test_a_mixture_of_copies_is_the_copy(base, layers):
    unet = mixture_of(base, [base] * 4, layers, gated=True)
    x, t, states = sample(2)
    expected = base(x, t, states).prediction
    for route in routes(2):
        assert close(unet(x, t, states, route).prediction, expected) < 1e-5


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("i", [0, 2])
@torch.inference_mode()
def test_one_hot_is_the_base_with_that_experts_layers(base, experts, layers, i):
    dense = copy.deepcopy(base)
    state = dense.state_dict()
    for layer in mixed_layers(dense, layers):
        state |= {n: w for n, w in experts[i].state_dict().items() if n.startswith(layer + ".")}
    dense.load_state_dict(state)

    x, t, states = sample(2)
    route = PromptRoute(torch.eye(4)[[i, i]])
    mixed = mixture_of(base, experts, layers)
    assert close(mixed(x, t, states, route).prediction, dense(x, t, states).prediction) < 1e-6


def test_what_is_mixed():
    with torch.device("meta"):
        unet = UNet()
    assert len(mixed_layers(unet, "attn")) == 15 * 6
    assert len(mixed_layers(unet, "ff")) == 15
    assert not any("mid_block" in name or "to_out" in name for name in mixed_layers(unet, "all"))


def test_where_a_tensor_comes_from():
    assert origin("a.to_q.experts.12.net.0.weight") == (12, "a.to_q.net.0.weight")
    assert origin("a.to_out.0.weight") == (None, "a.to_out.0.weight")


def test_parameter_counts():
    def millions(unet):
        return round(sum(p.numel() for p in unet.parameters()) / 1e6, 1)

    with torch.device("meta"):
        assert millions(UNet()) == 859.5
        assert millions(mix(UNet(), 4)) == 1427.5
        assert millions(mix(UNet(), 4, gated=True)) == 1427.8  # with the hidden gate's vectors


@torch.inference_mode()
def test_the_weights_are_those_of_eq_7(experts):
    """A mixture's output against the sum written out."""
    layers = [unet.down_blocks[0].attentions[0].transformer_blocks[0].ff for unet in experts]
    x = torch.randn(3, 5, 32)
    weights = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    expected = torch.stack(
        [sum(w * layer(row) for w, layer in zip(ws, layers, strict=True)) for ws, row in zip(weights, x, strict=True)]
    )
    assert close(Mixture(layers)(x, PromptRoute(weights)), expected) < 1e-6


@torch.inference_mode()
def test_an_expert_nobody_chose_is_not_run(base, experts):
    """Nor is its matrix added up with the others', not even times zero: what is not a number stays unseen."""
    broken = copy.deepcopy(experts[3])
    for parameter in broken.parameters():
        parameter.fill_(float("nan"))
    unet = mixture_of(base, [*experts[:3], broken])
    for name, mixture in mixtures(unet).items():
        mixture.experts[3].register_forward_hook(lambda *_, name=name: pytest.fail(f"{name} ran expert 4"))
    x, t, states = sample(2)
    for rows in ([[0.5, 0.5, 0.0, 0.0], [0.0, 0.2, 0.8, 0.0]], [[0.5, 0.0, 0.5, 0.0]] * 2):
        assert unet(x, t, states, PromptRoute(torch.tensor(rows))).prediction.isfinite().all()


@torch.inference_mode()
def test_hidden_route_by_hand(experts):
    """Chosen by the logits summed over the tokens, weighted token by token."""
    layers = [unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q for unet in experts]
    gate = torch.nn.Linear(32, 4, bias=False)
    x = torch.randn(2, 6, 32)
    expected = []
    for row in x:
        logits = row @ gate.weight.T
        chosen = logits.sum(0).topk(2).indices
        weights = logits[:, chosen].softmax(-1)
        expected.append(sum(weights[:, j, None] * layers[int(e)](row) for j, e in enumerate(chosen)))
    assert close(Mixture(layers, gate)(x, HiddenRoute(2, 4, 2)), torch.stack(expected)) < 1e-5


# Equal experts, order, batches (3) ----------------------------------------------------------------------------------


def gates(text, experts: int = 4) -> list:
    positive, negative = text(POSITIVE[:experts]), text(NEGATIVE[:experts])
    return [UniformGate(experts), PromptGate(positive, negative, top=experts), HiddenGate(experts, 2)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("layers", LAYERS)
def test_equal_experts_have_no_uncertainty(base, experts, text, layers, count):
    unet = mixture_of(base, [experts[0]] * count, layers, gated=True)
    for gate in gates(text, count):
        model = EMoE(unet, text, gate, split="ff" if layers == "ff" else "attn2")
        assert model.score(PROMPTS).relative.max() < 1e-10


def test_the_number_is_exactly_zero_where_paths_are_equal():
    for value in (torch.randn(1, 1, 2, 8, 4, 4), torch.tensor(0.1)):  # three times 0.1 is not 0.3
        found = measure(value.expand(1, 3, 2, 8, 4, 4))
        assert found.eu.tolist() == [0, 0]
        assert found.map.abs().max() == 0


def test_experts_in_another_order(base, experts, text):
    order = [2, 0, 3, 1]
    ordered = [experts[i] for i in order]
    a = EMoE(mixture_of(base, experts), text, PromptGate(text(POSITIVE), text(NEGATIVE), top=2)).score(PROMPTS)
    gate = PromptGate(text([POSITIVE[i] for i in order]), text([NEGATIVE[i] for i in order]), top=2)
    b = EMoE(mixture_of(base, ordered), text, gate).score(PROMPTS)
    assert torch.allclose(a.weights[:, order], b.weights)
    assert torch.allclose(a.eu, b.eu, rtol=1e-5)


@pytest.mark.parametrize("gated", [False, True], ids=["prompt", "hidden"])
def test_batch_mates_do_not_matter(base, experts, text, gated):
    unet = mixture_of(base, experts, gated=gated)
    gate = HiddenGate(4, 2) if gated else PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    model = EMoE(unet, text, gate)
    alone = torch.cat([model.score([prompt]).eu for prompt in PROMPTS])
    for size in (2, 3, 4):
        assert torch.allclose(model.score(PROMPTS, batch_size=size).eu, alone, rtol=1e-5)
    backwards = model.score(PROMPTS[::-1], batch_size=4).eu.flip(0)
    assert torch.allclose(backwards, alone, rtol=1e-5)


def test_different_experts_disagree(model):
    assert (model.score(PROMPTS).relative > 1e-4).all()


# The split (4) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gated", [False, True], ids=["prompt", "hidden"])
@pytest.mark.parametrize("split", ["attn2", *(pytest.param(x, marks=pytest.mark.slow) for x in ("attn1", "ff"))])
@torch.inference_mode()
def test_paths_are_separate_runs(base, experts, split, gated):
    """Splitting late = one run per expert from the start, in a network whose split layer knows that expert alone."""
    unet = mixture_of(base, experts, gated=gated)
    x, t, states = sample(2)

    def route(at):
        weights = torch.tensor([[0.7, 0.0, 0.3, 0.0], [0.0, 0.4, 0.0, 0.6]])
        return HiddenRoute(2, 4, 2, at) if gated else PromptRoute(weights, at)

    found = unet(x, t, states, route(split))
    for i in range(4):
        run = of_expert(unet, split, i)(x, t, states, route(None))
        for name in ("prediction", "m_pre", "m_post"):
            assert close(by_path(getattr(found, name), 4)[i], getattr(run, name)) < 1e-5, (name, i)


@torch.inference_mode()
def test_m_rows_equal_m_runs(base, experts):
    unet = mixture_of(base, experts)
    x, t, states = sample(3)
    weights = torch.tensor([[0.7, 0.0, 0.3, 0.0], [0.0, 0.4, 0.0, 0.6], [0.25, 0.25, 0.25, 0.25]])
    together = unet(x, t, states, PromptRoute(weights)).prediction
    for i in range(3):
        one = unet(x[i : i + 1], t, states[i : i + 1], PromptRoute(weights[i : i + 1])).prediction
        assert close(together[i : i + 1], one) < 1e-5


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("paths", [1, 4])
@pytest.mark.parametrize("halves", [1, 2])
def test_summing_the_matrices_first_is_the_mixture(base, experts, samples, paths, halves, monkeypatch):
    """One matrix a prompt, for both guidance halves; one in all, as in a dense layer, where all go the same way."""
    layer = mixtures(mixture_of(base, experts))["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert isinstance(layer, LinearMixture)
    x = torch.randn(paths * halves * samples, 5, 64, generator=torch.Generator().manual_seed(1))
    weights = choose(torch.randn(samples, 4, generator=torch.Generator().manual_seed(2)), 2)
    bmm, products = torch.bmm, []
    monkeypatch.setattr(torch, "bmm", lambda a, b: products.append(len(b)) or bmm(a, b))
    last = torch.cat([weights[:1].expand(samples - 1, -1), weights[-1:]])  # another route for the last one alone
    for own in (weights, last, weights[:1].expand(samples, -1)):  # a route each, or one for all
        route, matrices = PromptRoute(own, "attn2", halves=halves), 1 if len(own.unique(dim=0)) == 1 else samples
        expected = Mixture.forward(layer, x, route)
        hooks = [e.register_forward_hook(lambda *_: pytest.fail("an expert was run alone")) for e in layer.experts]
        assert close(layer(x, route), expected) < 1e-6
        for hook in hooks:
            hook.remove()
        assert len(route.merged([expert.weight for expert in layer.experts])) == matrices
    assert products == ([samples] * 2 if samples > 1 else [])
    assert torch.equal(layer(x[:4], OneHot(1, 4)), Mixture.forward(layer, x[:4], OneHot(1, 4)))


def test_one_hot_gives_each_path_its_expert():
    x = torch.arange(6.0).reshape(6, 1, 1)
    work = OneHot(2, 3).divide(x)
    assert [(expert, x[rows].flatten().tolist()) for expert, rows, _ in work] == [
        (0, [0.0, 1.0]),
        (1, [2.0, 3.0]),
        (2, [4.0, 5.0]),
    ]


def test_guidance_halves_go_one_way_whatever_the_gate(base, experts, text):
    for gate in (UniformGate(4), HiddenGate(4, 2)):
        model = EMoE(mixture_of(base, experts, gated=isinstance(gate, HiddenGate)), text, gate)
        for halves in (1, 2):
            route = model.route(model.encode(["a", "b", "c"]), None, halves=halves)
            assert route.samples == 3 * halves
            logits = torch.randn(halves * 3, 5, 4)
            work = route.divide(logits, torch.nn.Identity())
            rows = torch.zeros(halves * 3, 4)
            for one in work:
                rows[one.rows, one.expert] = 1
            assert torch.equal(rows[:3], rows[-3:])


@torch.inference_mode()
def test_what_tells_mixtures_apart(base, experts, text):
    """Whatever changes a number changes the mixture's digits; another model of the same does not."""

    ours = mixture_of(base, experts)

    def model(unet=ours, gate=None, **told):
        return EMoE(unet, text, gate or UniformGate(4), **told).mixture

    smaller = copy.copy(ours)
    smaller.config = replace(smaller.config, sample_size=32)
    described = PromptGate(text(POSITIVE), text(NEGATIVE), top=2), PromptGate(text(POSITIVE), text(NEGATIVE), 3)
    torch.manual_seed(0)
    gated = mixture_of(base, experts, gated=True)
    hidden = [model(gated, gate=HiddenGate(4, top)) for top in (1, 2)]
    others = [model(), model(split="ff"), model(smaller), model(downsampling=4), *hidden]
    others += [model(gate=gate) for gate in described]
    assert len(set(others)) == len(others)
    assert model() == others[0]


def test_a_variant_keeps_the_rest(base, experts, text):
    model = uniform_model(base, experts, text, split="ff", prediction_type="v", downsampling=4)
    other = model.variant(gate=PromptGate(text(POSITIVE), text(NEGATIVE), top=2))
    assert (other.split, other.prediction_type, other.downsampling) == ("ff", "v", 4)
    third = other.variant(split="attn1")
    assert (third.split, third.gate, third.unet, type(third)) == ("attn1", other.gate, model.unet, EMoE)


# What scoring runs (5) ----------------------------------------------------------------------------------------------


def test_scoring_runs_what_it_must_and_no_more(base, experts, text):
    model = uniform_model(base, experts, text)
    rows: dict[str, list[int]] = {}
    for name, module in model.unet.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, args, out, name=name: rows.setdefault(name, []).append(len(out)))
    model.score(["a", "b", "c"], negative="bad", batch_size=3)

    assert not any(name.startswith(("up_blocks", "conv_out", "conv_norm_out")) for name in rows)
    first = "down_blocks.0.attentions.0."
    before = ("conv_in", "down_blocks.0.resnets.0.", first + "norm", first + "proj_in")
    before += tuple(f"{first}transformer_blocks.0.{name}" for name in ("norm1", "attn1"))
    for name, counts in rows.items():
        if "time_emb" in name:
            assert counts == [1], name
        elif name.startswith(before):
            assert set(counts) == {3}, name  # once a prompt: no unconditional half, no paths
        elif name.endswith(("attn2.to_k", "attn2.to_v")):
            assert counts == [3], name  # the paths of a prompt have one text
        elif ".experts." not in name:
            assert counts == [12], name  # once a path
    split = [rows[f"{first}transformer_blocks.0.attn2.to_q.experts.{i}"] for i in range(4)]
    assert split == [[3]] * 4  # each expert its own path of every prompt


def test_nothing_before_the_split_is_repeated(base, experts, text):
    model = uniform_model(base, experts, text)
    seen = []
    attn1 = model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    attn1.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    model.score(["a red bus"])
    assert seen == [1]


def test_the_page_of_the_method_shows_what_runs(capsys):
    """Its example, as a reader would paste it."""
    page = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    exec(compile(example, "docs/method.md", "exec"), {})
    assert re.match(r"tensor\(\[\d.*\]\)\n$", capsys.readouterr().out)


def test_no_split_where_nothing_is_mixed(base, experts, text):
    """All paths would be the same, and the number 0."""
    with pytest.raises(EmoeError, match="where nothing is mixed"):
        EMoE(mixture_of(base, experts, "attn"), text, UniformGate(4), split="ff")
