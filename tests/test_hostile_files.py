"""Files that somebody broke on purpose, or chance did: one line, exit code 2, at once, and nothing of them is run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import forms
import numpy
import pytest
import torch

from emoe.__main__ import main
from emoe.checkpoint.architecture import WIDEST
from emoe.checkpoint.file import LONGEST_NAME, WeightsFile
from emoe.checkpoint.layout import Folder
from emoe.checkpoint.load_text import load_text, load_tokenizer
from emoe.checkpoint.open import examine, open_checkpoint
from emoe.checkpoint.parts import Part
from emoe.errors import EmoeError
from emoe.tokenizer import clip_tokenizer

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
EMBEDDING = "embeddings.token_embedding.weight"


@pytest.fixture(scope="module")
def state() -> forms.State:
    return forms.state(1)


@pytest.fixture(scope="module")
def unet(state) -> forms.State:
    return forms.unet(state)


def text_part(folder: Path, state: forms.State, **changed: torch.Tensor) -> Part:
    """A text encoder alone in its file, some of its tensors changed."""
    path = forms.safetensors(folder / "text.safetensors", forms.text(state) | changed)
    return examine(str(path)).parts["text_encoder"]


def refused(capsys, path: Path) -> str:
    """What `emoe inspect` says of it, every tensor of the UNet read."""
    code = main(["inspect", str(path)])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1), err
    return err


def why_not(attempt: Callable[[], object]) -> str | None:
    """An EmoeError's message, None without an error; any other error fails the test."""
    message = None
    try:
        attempt()
    except EmoeError as error:
        message = str(error)
    assert "\n" not in (message or "")
    return message


def read_all(path: Path) -> None:
    file = WeightsFile(path)
    for name in file.entries:
        file.read(name)


# The same tensor twice ----------------------------------------------------------------------------------------------

TWICE = {
    "unet": (f"{forms.UNET}input_blocks.0.0.weight", f"{forms.UNET}conv_in.weight"),
    "upsampler": (f"{forms.UNET}output_blocks.2.1.conv.weight", f"{forms.UNET}output_blocks.2.2.conv.weight"),
    "vae": ("first_stage_model.encoder.mid.attn_1.q.weight", "first_stage_model.encoder.mid.attn_1.to_q.weight"),
    "text": (f"{forms.TEXT}final_layer_norm.bias", "text_encoder.text_model.final_layer_norm.bias"),
    "flat-text": (f"{forms.TEXT}final_layer_norm.bias", "cond_stage_model.transformer.final_layer_norm.bias"),
}


@pytest.mark.parametrize("case", TWICE)
def test_two_spellings_of_one_tensor(state, tmp_path, capsys, case):
    first, second = TWICE[case]
    path = forms.safetensors(tmp_path / "a.safetensors", state | {second: torch.zeros(1)})
    err = refused(capsys, path)
    assert "are the same tensor twice; the file is broken" in err
    assert {first, second} <= set(err.split())


def test_two_spellings_in_a_pickle(tmp_path, capsys):
    path = forms.pickled(tmp_path / "a.ckpt", {"a.b": torch.zeros(1), "module.a": {"b": torch.ones(1)}})
    assert "holds a.b twice" in refused(capsys, path)


def test_one_name_in_two_shards(state, tmp_path, capsys):
    folder = forms.hub_sharded(tmp_path, state)
    shards = sorted((folder / "unet").glob("*-of-00002.safetensors"))
    (folder / "unet" / shards[1].name).write_bytes(shards[0].read_bytes())
    assert "two of its files hold conv_in.weight" in refused(capsys, folder)


# Kinds of numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.complex64, torch.uint16])
def test_a_unet_of_other_numbers(unet, tmp_path, capsys, dtype):
    path = forms.safetensors(tmp_path / "a.safetensors", {name: tensor.to(dtype) for name, tensor in unet.items()})
    err = refused(capsys, path)
    assert "a quantised checkpoint" in err or f"in {dtype}, which is no floating-point number" in err


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_one_tensor_of_other_numbers(state, unet, tmp_path, capsys, dtype):
    name = "mid_block.resnets.0.conv1.bias"
    path = forms.safetensors(tmp_path / "a.safetensors", unet | {name: torch.ones(128, dtype=dtype)})
    err = refused(capsys, path)
    assert "a quantised checkpoint" in err or f"has {name} in {dtype}" in err

    part = text_part(tmp_path, state, **{"final_layer_norm.bias": torch.ones(64, dtype=dtype)})
    message = why_not(lambda: load_text(part, None))
    assert f"has final_layer_norm.bias in {dtype}, which is no floating-point number" in message


# Pickles ------------------------------------------------------------------------------------------------------------

TREE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}
SMALL = {
    "zip": lambda path: forms.lightning(path, TREE),
    "legacy": lambda path: forms.lightning(path, TREE, legacy=True),
    "safetensors": lambda path: forms.safetensors(path, TREE, format="pt"),
}


def edited(data: bytes, container: str, seed: int) -> bytes:
    """A few bytes changed: of safetensors in the header, of a zip mostly in the pickle inside."""
    chance, changed = random.Random(seed), bytearray(data)
    start, end = 0, len(data)
    if container == "safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
    elif container == "zip" and seed % 4:
        start = data.index(b"data.pkl")
        end = data.index(b"PK\x03\x04", start)
    for _ in range(chance.choice((1, 1, 2, 5))):
        changed[chance.randrange(start, end)] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("container", SMALL)
def test_changed_bytes(tmp_path, container):
    data = SMALL[container](tmp_path / "a.ckpt").read_bytes()
    path, messages = tmp_path / "b.ckpt", []
    for seed in range(150):
        path.write_bytes(edited(data, container, seed))
        messages.append(why_not(lambda: read_all(path)))
    assert sum(message is not None for message in messages) > 50


class Claims:
    """Unpickled as a numpy number whose dtype's state is nonsense."""

    def __reduce__(self):
        return numpy.dtype, ("f8", False, True), "nonsense"


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_file_says_of_numpys_dtypes_does_not_reach_numpy(tmp_path, legacy):
    """It trusts every word: a single wrong byte there was a segmentation fault."""
    path = forms.pickled(tmp_path / "a.ckpt", {"state_dict": TREE, "loss": Claims()}, legacy)
    assert WeightsFile(path).entries.keys() == TREE.keys()


def odd_tensors() -> Iterator[tuple[str, torch.Tensor]]:
    eye = torch.eye(3)
    yield "sparse", eye.to_sparse()
    yield "sparse-rows", eye.to_sparse_csr()
    yield "quantised", torch.quantize_per_tensor(eye, 0.1, 0, torch.qint8)
    yield "meta", torch.empty(3, device="meta")
    yield "nested", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    yield "jagged", torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    yield "stretched", torch.ones(1).expand(10**12)  # four terabytes, should anybody copy it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("legacy", [False, True])
def test_odd_tensors(tmp_path, capsys, legacy):
    for kind, tensor in odd_tensors():
        err = refused(capsys, forms.pickled(tmp_path / f"{kind}.ckpt", {"a": tensor}, legacy))
        assert "no ordinary tensor" in err or "asks for more than tensors" in err, kind


OTHERS = {
    "array": numpy.ones(3),
    "number": numpy.float32(3),
    "dtype": numpy.dtype("f4"),
    "path": Path("x"),
    "storage": torch.ones(3).untyped_storage(),
    "size": torch.Size([1]),
    "bytes": b"x",
    "set": {1, 2},
    "complex": 1j,
    "function": print,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_other_things_among_tensors(tmp_path, case, legacy):
    path = forms.pickled(tmp_path / "a.ckpt", {"state_dict": TREE | {"other": OTHERS[case]}}, legacy)
    message = why_not(lambda: read_all(path))
    if message is None:
        assert WeightsFile(path).entries.keys() == TREE.keys()
    else:
        assert "asks for more than tensors" in message or "damaged or cut-off" in message


# Shapes and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (0, 4, 3, 3), (2**40, 0), (1,) * 9], ids=str)
@pytest.mark.parametrize("name", ["conv_in.weight", f"{TO_K}.weight", "down_blocks.0.resnets.0.conv1.weight"])
def test_shapes_of_a_unet(unet, tmp_path, capsys, name, shape):
    refused(capsys, forms.safetensors(tmp_path / "a.safetensors", unet | {name: torch.zeros(shape).half()}))


def test_a_unet_without_a_single_number(unet, tmp_path, capsys):
    empty = {name: torch.zeros(0, *tensor.shape[1:]) for name, tensor in unet.items()}
    assert "has a layer 0 wide" in refused(capsys, forms.safetensors(tmp_path / "a.safetensors", empty))
    wide = {name: torch.zeros(2 * WIDEST, 0) for name in unet}
    assert f"has a layer {2 * WIDEST} wide" in refused(capsys, forms.safetensors(tmp_path / "b.safetensors", wide))


@pytest.mark.parametrize("shape", [(), (5,), (0, 64), (49408, 0), (2**40, 0)], ids=str)
@pytest.mark.parametrize("name", [EMBEDDING, "embeddings.position_embedding.weight", "encoder.layers.0.mlp.fc1.weight"])
def test_shapes_of_a_text_encoder(state, tmp_path, name, shape):
    part = text_part(tmp_path, state, **{name: torch.zeros(shape).half()})
    assert why_not(lambda: load_text(part, None))


NAMES = {
    f"{TO_Q}.experts.9999.weight": "count 10000 experts",
    f"{TO_Q}.experts.99999999999.weight": "besides",
    f"{TO_Q}.experts.-1.weight": "besides",
    f"{TO_Q}.experts.1.weight": "lacks",
    "mid_block.experts.0.y": "besides",
    "down_blocks.-1.resnets.0.conv1.weight": "besides",
    "mid_block.": "besides",
    "mid_block.a\nb": "holds a tensor named 'mid_block.a\\nb'",
    "mid_block.\x1b[31m": "holds a tensor named",
    "mid_block." + "." * 200_000: "holds a tensor named",
}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_a_unet(unet, tmp_path, capsys, name):
    path = forms.safetensors(tmp_path / "a.safetensors", unet | {name: torch.zeros(2)})
    err = refused(capsys, path)
    assert NAMES[name] in err
    assert len(err) < 1000


def test_a_leftover_that_is_named_like_an_experts(unet, tmp_path):
    name = "mid_block.experts.0.lora_up.weight"
    assert main(["inspect", str(forms.safetensors(tmp_path / "a.safetensors", unet | {name: torch.zeros(2)}))]) == 0


def test_the_longest_names_are_far_shorter_than_is_allowed(state):
    assert max(map(len, forms.junk(state))) < LONGEST_NAME / 2


TEXT_NAMES = ["layers.999999999.x", "layers.9999.x", "layers.47.x", "layers.-1.x", "layers.٣.x", "layers.", "layers.0"]
TEXT_NAMES = ["encoder." + name for name in TEXT_NAMES] + ["embeddings.layers.x", "embeddings.layers", "embeddings."]


@pytest.mark.parametrize("name", TEXT_NAMES)
def test_names_of_a_text_encoder(state, tmp_path, name):
    """What looks like a layer is refused; what does not is left out, as anything of no known use."""
    message = why_not(lambda: load_text(text_part(tmp_path, state, **{name: torch.zeros(2)}), None))
    assert message or name in ("encoder.layers.-1.x", "encoder.layers.", "encoder.layers.0")


# What comes with the weights ----------------------------------------------------------------------------------------

BROKEN = {
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "empty": b"",
    "model-null": b'{"model": null}',
    "lists": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "binary": b"\xff\xfe\0" * 50,
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tokenizers(state, tmp_path, case):
    part, folder = text_part(tmp_path, state), tmp_path / "tokenizer"
    clip_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(BROKEN[case])
    assert "cannot be read" in why_not(lambda: load_text(part, load_tokenizer(Folder(folder))))


TOKENIZERS = {
    "ids-with-gaps": ({"model": {"vocab": {"red</w>": 999_999}}}, {}, r"1000000 tokens, .* does not go with"),
    "one-word": ({"model": {"vocab": None, "merges": []}, "added_tokens": []}, {}, r"3 tokens, .* does not go with"),
    "length": ({}, {"model_max_length": "x"}, "cannot read a prompt"),
    "no-end": ({}, {"eos_token": None}, "cannot be read"),
    "another-end": ({}, {"eos_token": "zzz"}, "does not go with"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_read_and_do_not_fit(state, tmp_path, case):
    part, folder = text_part(tmp_path, state), tmp_path / "tokenizer"
    clip_tokenizer().save_pretrained(folder)
    changes, settings, sentence = TOKENIZERS[case]
    for name, change in (("tokenizer.json", changes), ("tokenizer_config.json", settings)):
        table = forms.json.loads((folder / name).read_text())
        if change.get("model"):
            vocabulary = change["model"]["vocab"]
            whole = table["model"]["vocab"] | vocabulary if vocabulary else {"a</w>": 0}
            table["model"] |= change["model"] | {"vocab": whole}
            change = {key: value for key, value in change.items() if key != "model"}
        (folder / name).write_text(forms.json.dumps(table | change))
    with pytest.raises(EmoeError, match=sentence):
        load_text(part, load_tokenizer(Folder(folder)))(["a red bus"])


SIDECARS = {
    'model:\n  params:\n    parameterization: "v"\n': "v",
    "parameterization: v  # as trained": "v",
    "parameterization: 'v'\r\n": "v",
    "parameterization: eps": "epsilon",
    "parameterization: velocity": "epsilon",
    "# parameterization: v": "epsilon",
    "parameterization:\nv": "epsilon",
    "\n" * 2_000_000: "epsilon",
    "parameterization:" + " " * 2_000_000 + "x": "epsilon",
    b"\xff\xfe\0" * 99: "epsilon",
}


@pytest.mark.parametrize("text", SIDECARS, ids=range(len(SIDECARS)))
def test_sidecars(unet, tmp_path, text):
    path = forms.safetensors(tmp_path / "a.safetensors", unet)
    path.with_suffix(".yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert open_checkpoint(str(path)).prediction_type == SIDECARS[text]


def test_a_sidecar_that_is_a_folder(unet, tmp_path, capsys):
    path = forms.safetensors(tmp_path / "a.safetensors", unet)
    path.with_suffix(".yaml").mkdir()
    assert "a.yaml: Is a directory" in refused(capsys, path)
