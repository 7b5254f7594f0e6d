"""LoRAs: an expert with them is the checkpoint that they were merged into, whatever names they go by."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from civitai_world import World, version
from conftest import close
from folders import CPU, fails, weights, write
from loras import ATTN, HEAD, RANK, SPELLINGS, TEXT, kohya, loras, matrices, merged, save, two
from safetensors.torch import load_file
from server import hub, serve
from twins import unet_twin

from emoe import EMoE
from emoe.assemble import assemble
from emoe.checkpoint import civitai
from emoe.checkpoint.load_unet import load_unet, mixed_shapes
from emoe.checkpoint.lora import with_loras
from emoe.checkpoint.open import open_checkpoint
from emoe.checkpoint.open_lora import open_lora
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.lock import lock, to_toml
from emoe.moe import mixtures, origin
from emoe.unet import UNet


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
        (theirs.get_submodule(layer).weight - ours[f"{layer}.weight"]).abs().max()
        for layer in mixed_shapes(dense, "all")
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
    for layer in mixed_shapes(dense, "all"):
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


@pytest.mark.slow
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
