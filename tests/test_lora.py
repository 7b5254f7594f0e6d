"""LoRAs: an expert with them is the checkpoint that they were merged into, whatever names they go by."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import forms
import pytest
import torch
from civitai_world import World, version
from conftest import close
from folders import CPU, fails, weights, write
from safetensors.torch import load_file
from server import hub, serve
from torch import Tensor
from twins import unet_twin

from emoe import EMoE
from emoe.assemble import assemble
from emoe.checkpoint import civitai
from emoe.checkpoint.load_unet import brought, load_unet
from emoe.checkpoint.lora import with_loras
from emoe.checkpoint.names import unet_to_ldm
from emoe.checkpoint.open import open_checkpoint
from emoe.checkpoint.open_lora import open_lora
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.lock import lock, to_toml
from emoe.moe import mixtures, origin
from emoe.unet import UNet

RANK = 4
Matrices = dict[str, tuple[Tensor, Tensor]]  # layer -> down (rank, in), up (out, rank)


def matrices(state: forms.State, only: str = "", seed: int = 0) -> Matrices:
    """Of every layer in a transformer whose weight is a matrix, the mid-block's and to_out too."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in forms.unet(state).items():
        layer = name.removesuffix(".weight")
        if layer != name and "transformer_blocks" in layer and weight.ndim == 2 and only in layer:
            out, width = weight.shape
            found[layer] = (
                torch.randn(RANK, width, generator=generator) / width**0.5,
                torch.randn(out, RANK, generator=generator) / RANK**0.5 * 0.3,
            )
    return found


def merged(state: forms.State, lora: Matrices, scale: float) -> forms.State:
    """The checkpoint with scale · up @ down added to every layer, in float32."""
    result = forms.wide(state)
    for layer, (down, up) in lora.items():
        name = f"{forms.UNET}{unet_to_ldm(f'{layer}.weight')}"
        result[name] = result[name] + scale * torch.einsum("or,ri->oi", up, down)
    return result


def kohya(layer: str, down: Tensor, up: Tensor, alpha: float = RANK) -> forms.State:
    head = f"lora_unet_{layer.replace('.', '_')}"
    return {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": torch.tensor(alpha)}


def kohya_ldm(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return kohya(unet_to_ldm(f"{layer}.weight").removesuffix(".weight"), down, up)


def kohya_convolutions(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return kohya(layer, down[:, :, None, None], up[:, :, None, None])


def peft(layer: str, down: Tensor, up: Tensor, head: str = "unet.", name: str = "") -> forms.State:
    return {f"{head}{layer}.lora_A{name}.weight": down, f"{head}{layer}.lora_B{name}.weight": up}


def diffusers_2023(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return {f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}


def diffusers_old(layer: str, down: Tensor, up: Tensor) -> forms.State:
    """Only attention had them."""
    if ".attn" not in layer:
        return diffusers_2023(layer, down, up)
    above, leaf = layer.removesuffix(".0").rsplit(".", 1)
    head = f"unet.{above}.processor.{leaf}_lora"
    return {f"{head}.down.weight": down, f"{head}.up.weight": up}


SPELLINGS: dict[str, Callable[[str, Tensor, Tensor], forms.State]] = {
    "kohya": kohya,
    "kohya, LDM's names": kohya_ldm,
    "kohya, convolutions": kohya_convolutions,
    "kohya, another alpha": lambda layer, down, up: kohya(layer, down / 8, up, 8 * RANK),
    "LyCORIS": lambda layer, down, up: {
        name.replace("lora_unet_", "lycoris_"): t for name, t in kohya(layer, down, up).items()
    },
    "PEFT": peft,
    "PEFT, of a bare UNet": lambda layer, down, up: peft(layer, down, up, ""),
    "PEFT, its own": lambda layer, down, up: peft(layer, down, up, "base_model.model."),
    "PEFT, by an adapter's name": lambda layer, down, up: peft(layer, down, up, "base_model.model.", ".default"),
    "diffusers 2023": diffusers_2023,
    "diffusers, before": diffusers_old,
    "float16": lambda layer, down, up: {n: t.half() for n, t in kohya(layer, down.half(), up.half()).items()},
}


def save(path: Path, lora: Matrices, spelling: str = "kohya", more: forms.State | None = None, **told: str) -> Path:
    tensors = {n: t for layer, pair in lora.items() for n, t in SPELLINGS[spelling](layer, *pair).items()}
    return forms.safetensors(path, tensors | (more or {}), **told)


@pytest.fixture(scope="module")
def files(states, tmp_path_factory) -> list[Path]:
    """Two checkpoints."""
    return write(tmp_path_factory.mktemp("checkpoints"), *states[:2])


def two(folder: Path, files: list[Path], keys: str = "", extra: str = "") -> Path:
    """A mixture of a base and another; both experts have `keys`."""
    return weights(folder, files[0], *files, keys=keys, extra=extra)


def loras(*entries: tuple[str, float]) -> str:
    tables = ", ".join(f'{{ source = "{source}", scale = {scale} }}' for source, scale in entries)
    return f"loras = [{tables}]"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(states, tmp_path, spelling):
    lora = matrices(states[0])
    found = open_lora(str(save(tmp_path / "style.safetensors", lora, spelling))).parts["lora"]
    assert found.layers == lora.keys()
    for layer, (down, up) in lora.items():
        assert torch.allclose(found.delta(layer), up @ down, rtol=1e-4, atol=3e-3 if spelling == "float16" else 1e-6)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("number", [int, float])
def test_pickled_alphas_of_pythons_own(states, tmp_path, number, wrapped):
    lora = matrices(states[0], only=f"{ATTN}.to_q")
    (pair,) = lora.values()
    tensors = kohya(f"{ATTN}.to_q", *pair)
    pickled = tensors | {f"{HEAD}.alpha": number(3 * RANK)}
    torch.save({"state_dict": pickled} if wrapped else pickled, tmp_path / "style.pt")
    found = open_lora(str(tmp_path / "style.pt")).parts["lora"]
    assert torch.allclose(found.delta(f"{ATTN}.to_q"), 3 * pair[1] @ pair[0], rtol=1e-4)


def test_an_expert_with_a_lora_is_the_merged_checkpoint(states, files, tmp_path):
    """And all that is not mixed is the base's."""
    lora = matrices(states[0])
    save(tmp_path / "style.safetensors", lora)
    ours = assemble(read_weights(two(tmp_path, files, loras(("style.safetensors", 0.7)))), *CPU).unet.state_dict()
    (tmp_path / "merged").mkdir()
    expected = [files[0], *write(tmp_path / "merged", *(merged(state, lora, 0.7) for state in states[:2]))]
    plain, *changed = (load_unet(open_checkpoint(str(path)), dtype=torch.float32).state_dict() for path in expected)
    for name, tensor in ours.items():
        expert, original = origin(name)
        theirs = plain[original] if expert is None else changed[expert][original]
        assert torch.allclose(tensor, theirs, rtol=1e-5, atol=1e-6), name
    assert not torch.equal(ours[f"{ATTN}.to_q.experts.0.weight"], plain[f"{ATTN}.to_q.weight"])


ATTN = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize("spelling", ["kohya", "kohya, another alpha", "PEFT", "diffusers 2023", "diffusers, before"])
def test_beside_diffusers(states, tmp_path, spelling):
    """Its loader, PEFT's layers, its fusing."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    path = save(tmp_path / "style.safetensors", matrices(states[0]), spelling)
    (source,) = write(tmp_path, states[0])
    checkpoint = open_checkpoint(str(source))
    dense = load_unet(checkpoint, dtype=torch.float32)
    theirs = unet_twin(UNet(dense.config))
    theirs.load_state_dict({name: tensor.clone() for name, tensor in dense.state_dict().items()})
    loader = diffusers.StableDiffusionPipeline
    tensors, alphas = loader.lora_state_dict(load_file(path), unet_config=theirs.config)
    loader.load_lora_into_unet(tensors, network_alphas=alphas, unet=theirs)
    theirs.fuse_lora(lora_scale=0.7)
    theirs.unload_lora()

    ours = load_unet(with_loras(checkpoint, [(open_lora(str(path)), 0.7)]), dtype=torch.float32).state_dict()
    apart = [
        (theirs.get_submodule(layer).weight - ours[f"{layer}.weight"]).abs().max() for layer in brought(dense, "all")
    ]
    assert max(apart) < 1e-6
    assert not torch.allclose(ours[f"{ATTN}.to_q.weight"], dense.state_dict()[f"{ATTN}.to_q.weight"], atol=1e-3)


def test_loras_add_up(states, files, tmp_path):
    """Experts of one checkpoint: with no LoRA, one, the same in two parts, and one that is taken back."""
    save(tmp_path / "style.safetensors", matrices(states[0]))
    path = weights(tmp_path, files[0], *[files[0]] * 4)
    parts = iter([(), (0.8,), (0.5, 0.3), (0.5, -0.5)])
    taken = (loras(*(("style.safetensors", scale) for scale in scales)) for scales in parts)
    path.write_text(re.sub(r"(?<=\[\[expert\]\])", lambda _: f"\n{next(taken)}", path.read_text()), encoding="utf-8")
    unet = assemble(read_weights(path), *CPU).unet
    for name, mixture in mixtures(unet).items():
        plain, once, twice, none = (next(expert.parameters()) for expert in mixture.experts)
        assert torch.allclose(once, twice, atol=1e-6), name
        assert torch.allclose(none, plain, atol=1e-6), name
        assert close(once, plain) > 1e-2, name


def test_an_experts_loras_are_let_go_with_it(states, files, tmp_path):
    lora = open_lora(str(save(tmp_path / "style.safetensors", matrices(states[0]))))
    found, maps = with_loras(open_checkpoint(str(files[0])), [(lora, 1.0)]), Path("/proc/self/maps")
    before = found.parts["unet"].read(f"{ATTN}.to_q.weight", (32, 32))
    found.release()
    assert {*map(id, lora.files)} <= {*map(id, found.files)}
    if maps.exists():
        assert str(tmp_path) not in maps.read_text()
    assert torch.equal(found.parts["unet"].read(f"{ATTN}.to_q.weight", (32, 32)), before)


@pytest.mark.slow
def test_experts_from_one_checkpoint_and_several_loras(states, tmp_path):
    """One download and some small files make a mixture."""
    (a,) = write(tmp_path, states[0])
    for i in range(3):
        save(tmp_path / f"{i}.lora.safetensors", matrices(states[0], seed=i))
    tables = "".join(
        f'[[expert]]\nsource = "{a.name}"\npositive = "{word}"\nnegative = ""\n{loras((f"{i}.lora.safetensors", 1))}\n'
        for i, word in enumerate(("photo", "anime", "painting"))
    )
    path = tmp_path / "weights.toml"
    path.write_text(f'base = "{a.name}"\n{tables}', encoding="utf-8")
    model = EMoE.from_toml(path)
    assert (model.score(["a red bus", "punainen bussi"], size=64).eu > 1e-5).all()
    assert EMoE.from_toml(path).mixture == model.mixture
    path.write_text(path.read_text().replace("scale = 1", "scale = 0.9", 1))
    assert EMoE.from_toml(path).mixture != model.mixture


@pytest.mark.parametrize("by_root", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("writer", ["UNet", "pipeline", "PEFT"])
def test_beside_what_diffusers_and_peft_save(states, files, tmp_path, writer, by_root):
    """Names and settings are by their hand, and so is what the LoRA makes of the weights."""
    diffusers, peft = pytest.importorskip("diffusers"), pytest.importorskip("peft")
    checkpoint = open_checkpoint(str(files[0]))
    dense = load_unet(checkpoint, dtype=torch.float32)
    theirs = unet_twin(UNet(dense.config))
    theirs.load_state_dict({name: tensor.clone() for name, tensor in dense.state_dict().items()})
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=3 * RANK,
        use_rslora=by_root,
        alpha_pattern={"to_q": 5 * RANK, f"^{ATTN}.to_v": 7},
        target_modules=["to_q", "to_k", "to_v", "ff.net.0.proj", "ff.net.2"],
        init_lora_weights=False,
    )
    if writer == "PEFT":
        model = peft.get_peft_model(theirs, config)
        model.save_pretrained(tmp_path / "saved")
        expected = model.merge_and_unload().state_dict()
    else:
        theirs.add_adapter(config)
        if writer == "UNet":
            theirs.save_lora_adapter(tmp_path / "saved")
        else:
            told = theirs.peft_config["default"].to_dict() | {"target_modules": [], "peft_type": "LORA"}
            layers = peft.get_peft_model_state_dict(theirs)
            save_weights = diffusers.StableDiffusionPipeline.save_lora_weights
            save_weights(tmp_path / "saved", unet_lora_layers=layers, unet_lora_adapter_metadata=told)
        theirs.fuse_lora()
        expected = {name.replace(".base_layer", ""): tensor for name, tensor in theirs.state_dict().items()}

    ours = load_unet(with_loras(checkpoint, [(open_lora(str(tmp_path / "saved")), 1.0)]), dtype=torch.float32)
    for layer in brought(dense, "all"):
        assert torch.allclose(ours.get_submodule(layer).weight, expected[f"{layer}.weight"], atol=1e-5), layer


@pytest.mark.parametrize(
    ("told", "factor"),
    [
        ({"unet.lora_alpha": 2 * RANK}, 2),
        ({"unet.lora_alpha": RANK, "unet.use_rslora": True}, RANK**0.5),
        ({"unet.lora_alpha": RANK, "unet.alpha_pattern": {f"^{ATTN}.to_q": 3 * RANK}}, 3),
        ({"unet.lora_alpha": 5, "text_encoder.lora_alpha": 7, "unet.alpha_pattern": {f"{ATTN}.to_q": RANK}}, 1),
        ({"unet.lora_alpha": RANK, "unet.alpha_pattern": {"o_q": 9, "attn2.to_q": 9, "^to_q": 9, "to_q": 2 * RANK}}, 2),
        ({}, 1),
    ],
)
@pytest.mark.parametrize("own_file", [True, False])
def test_what_peft_says_of_alpha(states, tmp_path, told, factor, own_file):
    lora = matrices(states[0], only=f"{ATTN}.to_q")
    if own_file:
        path = save(tmp_path / "a.safetensors", lora, "PEFT", lora_adapter_metadata=json.dumps(told))
    else:
        path = save(tmp_path / "a" / "adapter_model.safetensors", lora, "PEFT, its own").parent
        settings = {name.removeprefix("unet."): value for name, value in told.items()}
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK} | settings))
    down, up = lora[f"{ATTN}.to_q"]
    found = open_lora(str(path)).parts["lora"].delta(f"{ATTN}.to_q")
    assert torch.allclose(found, factor * (up @ down), rtol=1e-5)


# What is refused ----------------------------------------------------------------------------------------------------


def wider(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.zeros(RANK, 1024), pair[1]


HEAD = f"lora_unet_{ATTN.replace('.', '_')}_to_q"
TEXT = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(RANK, 64)}
REFUSED: dict[str, tuple[Callable[[Path, Matrices], Path], str]] = {
    "SD2": (lambda p, lora: save(p, {f"{ATTN}.to_q": wider(lora[f"{ATTN}.to_q"])}), "for another architecture"),
    "SDXL": (
        lambda p, lora: save(p, lora, more={"lora_te2_text_model_x.lora_down.weight": torch.zeros(4, 4)}),
        "for another architecture: SD1.x has nothing like lora_te2_text_model_x",
    ),
    "Flux": (
        lambda p, lora: forms.safetensors(p, {"lora_unet_double_blocks_0_x.lora_down.weight": torch.zeros(4, 4)}),
        "SD1.x has nothing like lora_unet_double_blocks_0_x",
    ),
    "LoHa": (lambda p, lora: forms.safetensors(p, {f"{HEAD}.hada_w1_a": torch.zeros(4, 4)}), "is no plain LoRA"),
    "LoKr": (lambda p, lora: forms.safetensors(p, {f"{HEAD}.lokr_w1": torch.zeros(4, 4)}), "is no plain LoRA"),
    "DoRA": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.dora_scale": torch.ones(32, 1)}),
        f"is no plain LoRA, as {HEAD}.dora_scale shows",
    ),
    "half a pair": (
        lambda p, lora: forms.safetensors(p, {f"{HEAD}.lora_down.weight": lora[f"{ATTN}.to_q"][0]}),
        f"of {ATTN}.to_q, whose weight is [32, 32], it lacks the matrix up",
    ),
    "text alone": (lambda p, lora: forms.safetensors(p, TEXT), "changes none of the layers that are mixed"),
    "mid-block alone": (
        lambda p, lora: save(p, {layer: pair for layer, pair in lora.items() if layer.startswith("mid_block")}),
        "changes none of the layers that are mixed",
    ),
    "not finite": (
        lambda p, lora: save(p, {layer: (down, up / 0) for layer, (down, up) in lora.items()}),
        "holds weights that are not finite",
    ),
    "twice": (
        lambda p, lora: save(p, lora, more=peft(f"{ATTN}.to_q", *(m.clone() for m in lora[f"{ATTN}.to_q"]))),
        "twice, by two names",
    ),
    "no rank": (
        lambda p, lora: save(p, {f"{ATTN}.to_q": (torch.zeros(0, 32), torch.zeros(32, 0))}),
        "has matrices without a number",
    ),
    "numbers that are whole": (
        lambda p, lora: save(p, {f"{ATTN}.to_q": tuple(m.int() for m in lora[f"{ATTN}.to_q"])}),
        "is no floating-point number",
    ),
    "alpha of many numbers": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.ones(3)}),
        f"{HEAD}.alpha is no number",
    ),
    "an alpha of another kind": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.tensor(4, dtype=torch.uint16)}),
        f"{HEAD}.alpha is no number",
    ),
    "an alpha too large": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.tensor(3e38)}),
        "is 3e+38; the file is broken",
    ),
    "a sum that is not finite": (
        lambda p, lora: save(p, {layer: (down * 1e20, up * 1e20) for layer, (down, up) in lora.items()}),
        "is not finite in torch.float32; lower their scale",
    ),
    "a tensor without a name": (lambda p, lora: save(p, lora, more={"": torch.zeros(3)}), "SD1.x has nothing like"),
    "settings cut off": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.lora_alpha": 8'),
        "its settings are not JSON",
    ),
    "settings too deep": (lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata="[" * 10**5), "are not JSON"),
    "an expression": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.alpha_pattern": {"(a+)+b": 1}}'),
        "its alpha_pattern is {'(a+)+b': 1}, which is more than names of layers",
    ),
    "an odd alpha": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.lora_alpha": "8"}'),
        "make '8' an alpha",
    ),
    "odd alphas": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.alpha_pattern": {"x": NaN}}'),
        "make nan an alpha",
    ),
    "a checkpoint": (
        lambda p, lora: forms.safetensors(p, forms.state(3)),
        "is an SD1.x checkpoint, not a LoRA; name it as the source of an expert",
    ),
    "a VAE": (lambda p, lora: forms.safetensors(p, forms.vae(forms.state(3))), "is a VAE alone, not a LoRA"),
    "nothing": (lambda p, lora: p, "there is no file or folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(states, files, tmp_path, case):
    make, sentence = REFUSED[case]
    make(tmp_path / "x.safetensors", matrices(states[0]))
    message = fails(two(tmp_path, files, loras(("x.safetensors", 1))))
    assert sentence in message
    assert "expert 1: loras[0]: " in message or "finite" in case or case == "an alpha too large"


def test_one_that_changes_what_is_not_mixed_here(states, files, tmp_path):
    save(tmp_path / "x.safetensors", matrices(states[0], only="attn"))
    keys = loras(("x.safetensors", 1))
    assert "changes none" in fails(two(tmp_path, files, keys, extra='layers = "ff"'))
    assemble(read_weights(two(tmp_path, files, keys, extra='layers = "attn"')), *CPU)


def test_a_lora_as_an_expert(states, tmp_path):
    a, _ = write(tmp_path, *states[:2])
    lora = save(tmp_path / "x.safetensors", matrices(states[0]))
    assert "expert 2: " in (message := fails(weights(tmp_path, a, a, lora)))
    assert "is a LoRA: name it under an expert's loras" in message


# Where they come from -----------------------------------------------------------------------------------------------


def test_lock(states, files, tmp_path):
    path = save(tmp_path / "x.safetensors", matrices(states[0]))
    toml, to = two(tmp_path, files, loras(("x.safetensors", 0.5))), tmp_path / "deep" / "locked.toml"
    to.parent.mkdir()
    to.write_text(to_toml(lock(read_weights(toml), to)), encoding="utf-8")
    found = read_weights(to)
    assert [(lora.source, lora.scale) for lora in found.experts[1].loras] == [("../x.safetensors", 0.5)]
    assert "../x.safetensors" in found.sha256
    assert EMoE.from_toml(to).mixture == EMoE.from_toml(toml).mixture
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert "expert 1: loras[0]: ../x.safetensors is another file" in fails(to)


def test_from_civitai(states, files, tmp_path, world: World):
    data = save(tmp_path / "x.safetensors", matrices(states[0])).read_bytes()
    world.data = data
    world.metadata = version(data, model={"name": "Red Bus", "type": "LORA"})
    toml = two(tmp_path, files, loras(("civitai:128713", 1)))
    assemble(read_weights(toml), *CPU)
    to = tmp_path / "locked.toml"
    to.write_text(to_toml(lock(read_weights(toml), to)), encoding="utf-8")
    assert "fileId=7" in to.read_text()
    assemble(read_weights(to), *CPU)

    world.metadata = version(data)
    civitai.look_up.cache_clear()
    assert "is of type Checkpoint, not a LoRA; choose a LoRA" in fails(toml)
    world.metadata = version(data, model={"name": "Red Bus", "type": "LORA"})
    civitai.look_up.cache_clear()
    with pytest.raises(EmoeError, match="is of type LORA, not a checkpoint; name it under an expert's loras"):
        open_checkpoint("civitai:128713")


def test_inspect_asks_civitai_for_either(states, tmp_path, world: World, run):
    data = save(tmp_path / "x.safetensors", matrices(states[0])).read_bytes()
    world.data = data
    world.metadata = version(data, model={"name": "Red Bus", "type": "LORA"})
    code, out, _ = run("inspect", "civitai:128713")
    assert code == 2  # as small as the tests' checkpoints
    assert "civitai:128713 is a LoRA" in out
    civitai.look_up.cache_clear()
    world.metadata = version(data, model={"name": "Red Bus", "type": "VAE"})
    assert "is of type VAE, not a checkpoint" in run("inspect", "civitai:128713")[2]


def test_what_a_lora_says_that_it_is_made_for(states, tmp_path, caplog):
    """SD2's self-attention is as wide as SD1's."""
    lora = matrices(states[0], only="attn1")
    for told, warned in (("sd_v1", False), ("sd_v2_768_v", True)):
        caplog.clear()
        open_lora(str(save(tmp_path / "x.safetensors", lora, ss_base_model_version=told)))
        assert ("is made for 'sd_v2_768_v', not SD1.x" in caplog.text) is warned


def test_from_the_hub(states, files, tmp_path, at):
    data = save(tmp_path / "x.safetensors", matrices(states[0]), "PEFT").read_bytes()
    with serve(hub({"some-one/style": {"pytorch_lora_weights.safetensors": data, "README.md": b"hello"}})) as site:
        at(site.url)
        assemble(read_weights(two(tmp_path, files, loras(("some-one/style", 1)))), *CPU)


def test_inspect(states, tmp_path, run):
    path = save(tmp_path / "x.safetensors", {f"{ATTN}.to_q": (torch.zeros(8, 320), torch.zeros(320, 8))}, more=TEXT)
    code, out, err = run("inspect", str(path))
    assert (code, err) == (0, "")
    assert "is a LoRA" in out
    assert "under an expert's loras" in out
    assert "1 layer changed, 1 of them where experts are mixed" in out
    found = json.loads(run("inspect", str(path), "--json")[1])
    assert found["lora"] == {"layers": 1, "mixed": 1, "ranks": [8], "text_encoder_tensors": 1}
    assert found["refused"] is None
    code, out, err = run("inspect", str(save(tmp_path / "y.safetensors", matrices(states[0]))))
    assert code == 2
    assert "for another architecture" in err
    assert "usable        no: " in out
