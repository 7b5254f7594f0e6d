"""What fuzzing found, and is too large for its corpus, stays mended."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import forms
import pieces
import pytest
import torch
from weights_files import legacy, zipped

from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.pickles import MOST_OPCODES, unpickle
from emoe.checkpoint.settings import LIMIT, read_json
from emoe.config import LONGEST, read_weights
from emoe.errors import LONGEST as LONGEST_MESSAGE
from emoe.errors import EmoeError, shown
from emoe.prompts import read_prompts

PICKLES = Path(__file__).parent / "fuzz" / "corpus" / "zip-pickle"
BOMBS = "bytearray-of-a-number", "hex-of-hex-of-hex", "tuples-of-tuples-as-a-key", "lists-of-lists-called"

# Pickles and archives -------------------------------------------------------------------------------------------------


def test_a_tuple_of_a_tuple_of_a_tuple(judge):
    """To hash it took more stack than there is, and the process with it."""
    for name in ("zip-pickle", "legacy-pickle"):
        judge(name, b"p\x80\x02})" + b"\x85" * 100_000 + b"Ns.")


@pytest.mark.parametrize("wrap", [zipped, legacy])
def test_keys_of_one_hash(tmp_path, wrap):
    """Each was compared with all before it."""
    same = b"".join(pieces.number(i * (2**61 - 1)) + b"N" for i in range(9, 300))
    path = tmp_path / "a.ckpt"
    path.write_bytes(wrap(b"\x80\x02}(" + same + b"u."))
    with pytest.raises(EmoeError, match="a key that is neither text nor number"):
        WeightsFile(path)


def test_a_pickle_of_a_million_opcodes(tmp_path):
    path = tmp_path / "a.ckpt"
    path.write_bytes(zipped(b"\x80\x02" + b"N0" * (MOST_OPCODES // 2) + b"N."))
    with pytest.raises(EmoeError, match="no pickle of a checkpoint as torch writes them"):
        WeightsFile(path)


def test_an_archive_that_torch_did_not_write(tmp_path):
    """Packed members were read as they lie there, as other numbers; they unpack to any size, as many in one place."""
    state, packed = io.BytesIO(), tmp_path / "packed.ckpt"
    torch.save({"a": torch.zeros(2)}, state)
    with zipfile.ZipFile(state) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(EmoeError, match="an archive that torch did not write"):
        WeightsFile(packed)

    thick = tmp_path / "thick.ckpt"
    with zipfile.ZipFile(thick, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(1000))
        archive.filelist += archive.filelist[1:] * 9
    with pytest.raises(EmoeError, match="an archive that torch did not write"):
        WeightsFile(thick)


@pytest.mark.parametrize("name", BOMBS)
def test_the_bombs_of_the_corpus_are_stopped_before_torch(tmp_path, name):
    path = tmp_path / "a.ckpt"
    path.write_bytes(zipped((PICKLES / name).read_bytes()[1:]))
    with pytest.raises(UnpicklingError):
        unpickle(path, zipped=True)


# Whatever else is long ------------------------------------------------------------------------------------------------


def test_a_config_of_many_bytes(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"{" + b" " * LIMIT + b"}")
    with pytest.raises(EmoeError, match="is too long for what it is"):
        read_json(path)


def test_a_header_of_many_tensors(tmp_path):
    """A million of them took 20 seconds and 1.7 GB."""
    path = tmp_path / "a.safetensors"
    entries = ",".join(f'"{i}":{{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}' for i in range(300_000))
    path.write_bytes((len(entries) + 2).to_bytes(8, "little") + f"{{{entries}}}".encode())
    with pytest.raises(EmoeError, match=f"a header of {len(entries) + 2} bytes"):
        WeightsFile(path)


@pytest.mark.parametrize("part", ["a.", "'b.c'.", '"d" .\t'])
@pytest.mark.parametrize("place", ["{} = 1", "[{}]\nx = 1", "x = {{ {} = 1 }}"])
def test_a_key_of_many_parts(tmp_path, part, place):
    """It took the square of their number: 17 seconds for 64 kB."""
    path = tmp_path / "weights.toml"
    path.write_text(place.format(part * (LONGEST // 10) + "a"))
    with pytest.raises(EmoeError, match="a key of many parts"):
        read_weights(path)


def test_a_long_word_in_a_weights_toml(judge):
    judge("weights-toml", b"#" + b"a" * (LONGEST - 1))
    judge("weights-toml", b"a" + b" .a" * (LONGEST // 4))


def test_descriptors_with_many_dots_are_no_keys(tmp_path):
    path = tmp_path / "weights.toml"
    experts = (
        f'[[expert]]\nsource = "a/b"\npositive = "{i}{". a photo" * 60}, {"." * 99}"\nnegative = ""\n' for i in "ab"
    )
    path.write_text('base = "a/b"\n' + "".join(experts))
    assert len(read_weights(path).experts) == 2


def test_a_weights_toml_without_an_end(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_text("#" * (LONGEST + 1))
    with pytest.raises(EmoeError, match="is longer than"):
        read_weights(path)


def test_a_list_of_many_columns(tmp_path):
    """They were counted once for each of them."""
    path = tmp_path / "list.csv"
    path.write_text("prompt," + ",".join(map(str, range(200_000))) + "\na\n")
    assert [prompt.text for prompt in read_prompts(path)] == ["a"]


def test_a_parquet_file_of_many_rows(tmp_path, monkeypatch):
    """A few bytes stand for any number of rows."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a" * 1000] * 20_000}), path)
    assert path.stat().st_size < 10_000
    assert len(read_prompts(path)) == 20_000
    monkeypatch.setattr("emoe.prompts.LARGEST", 10**7)
    with pytest.raises(EmoeError, match="unpacks to more than"):
        read_prompts(path)


# Messages -----------------------------------------------------------------------------------------------------------


def test_messages_are_one_line_and_not_long():
    message = str(EmoeError("the file\nholds " + "x" * 10**6 + "; use another"))
    assert message.startswith("the file holds xxx")
    assert message.endswith("xxx; use another")
    assert len(message) < LONGEST_MESSAGE + 10


def test_what_is_shown_is_short():
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    values = (deep, 16**5000, "x" * 10**6, {"a": "b" * 10**6}, [1] * 10**6, -(2**5000))
    assert all(len(shown(value)) < 500 for value in values)
    assert [shown(value) for value in (3, "a", None, 0.5, [1, 2])] == ["3", "'a'", "None", "0.5", "[1, 2]"]


# What checkpoints hold is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_what_checkpoints_hold_is_read(tmp_path, legacy):
    """Optimizers share tuples, state dicts have attributes, numbers are keys."""
    betas = (0.9, 0.999)
    state = torch.nn.Linear(2, 2).state_dict()
    tree = {
        "state_dict": state | {"p": torch.nn.Parameter(torch.zeros(2)), "b": torch.zeros(2, dtype=torch.bfloat16)},
        "optimizer": {"state": {0: {"step": 3}, 1: {"m": torch.zeros(2)}}, "groups": [{"betas": betas}, {"b": betas}]},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
    }
    path = forms.pickled(tmp_path / "a.ckpt", tree, legacy)
    assert WeightsFile(path).entries.keys() == {"weight", "bias", "p", "b"}
