"""What fuzzing found stays mended: its finds, properties of all input, and a harness that can fail."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import forms
import pieces
import pytest
import torch
import watch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import SETTINGS, TARGETS, header, legacy, zipped

from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.pickles import MOST_OPCODES, unpickle
from emoe.checkpoint.settings import LIMIT, read_json
from emoe.config import LONGEST, read_weights
from emoe.errors import LONGEST as LONGEST_MESSAGE
from emoe.errors import EmoeError, shown
from emoe.prompts import read_prompts

HERE = Path(__file__).parent / "fuzz"
CORPUS = sorted((HERE / "corpus").glob("*/*"))
BOMBS = "bytearray-of-a-number", "hex-of-hex-of-hex", "tuples-of-tuples-as-a-key", "lists-of-lists-called"


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Callable[[str, bytes], None]:
    """(target, input): Find, or another error than EmoeError, if the target does what no input may bring about."""
    begun = {}

    def judge(name: str, data: bytes) -> None:
        if name not in begun:
            folder = tmp_path_factory.mktemp(name)
            begun[name] = TARGETS[name].begin(folder), folder
        watch.judge(begun[name][0], data, begun[name][1])

    return judge


def few(count: int) -> Callable:
    """The same few examples every time."""
    unhealthy = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=unhealthy)


# Finds and seeds ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(judge, path):
    judge(path.parent.name, path.read_bytes())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_seeds(judge, name):
    for data in TARGETS[name].seeds():
        judge(name, data)


def test_the_corpus_is_small_and_of_known_targets():
    assert {path.parent.name for path in CORPUS} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS) < 200_000


# Properties ---------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def told(value: object) -> bytes:
    """As JSON, half characters spelled out."""
    return json.dumps(value).encode()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
@few(25)
@given(data=st.data())
def test_any_bytes_and_any_change_of_a_seed(judge, name, data):
    seed = data.draw(st.sampled_from(list(TARGETS[name].seeds())))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 20)))
    judge(name, seed[:start] + data.draw(st.binary(max_size=20)) + seed[end:])


@few(40)
@given(st.dictionaries(st.sampled_from(list(SETTINGS)), VALUES, max_size=4))
def test_any_config(judge, config):
    judge("config", told(config))


ROW = st.fixed_dictionaries({}, optional=dict.fromkeys(("prompt", "id", "group", "size", "image"), VALUES))


@few(40)
@given(st.lists(ROW, max_size=3))
def test_any_prompts(judge, rows):
    judge("prompts", b"j" + told(rows))
    judge("prompts", b"l" + b"\n".join(map(told, rows)))


@few(60)
@given(st.lists(st.text(max_size=12) | st.sampled_from(["..", "../b", "/", "OUTSIDE/secret.safetensors", "loop"])))
def test_any_index(judge, names):
    judge("shards", b"r" + told({"weight_map": {str(i): name for i, name in enumerate(names)}}))


NUMBERS = st.integers(0, 2**64 - 1) | st.integers(-3, 20)
ENTRY = {
    "dtype": st.sampled_from(["F16", "F32", "F8_E4M3", "F4", "I64", "BOOL", "C64", "x"]),
    "shape": st.lists(NUMBERS, max_size=4),
    "data_offsets": st.lists(NUMBERS, max_size=3),
}


@few(100)
@given(st.dictionaries(st.text(max_size=9), st.fixed_dictionaries(ENTRY), max_size=3))
def test_any_header(judge, table):
    judge("safetensors", b"h" + told(table))


@few(60)
@given(st.lists(st.integers(1, 3), max_size=4), st.sampled_from(["F16", "F32", "I8", "BOOL", "F4"]))
def test_any_tensor(judge, shape, dtype):
    judge("safetensors", b"h" + header({"conv_in.weight": tuple(shape), "a": ()}, dtype))


@pytest.mark.filterwarnings("ignore")
@few(150)
@given(st.sampled_from(["zip-pickle", "legacy-pickle"]), st.binary(max_size=30))
def test_any_pickle_of_pieces(judge, name, program):
    judge(name, b"o" + program)


@few(100)
@given(st.dictionaries(st.sampled_from(["base", "top", "gate", "temperature", "expert", "a\nb"]), VALUES, max_size=3))
def test_any_toml(judge, table):
    lines = (f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items())  # much of it is TOML as well
    judge("weights-toml", "\n".join(lines).encode())


# Too large for a corpus ---------------------------------------------------------------------------------------------


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
    with pytest.raises(EmoeError, match="damaged or cut-off pickle"):
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


# What checkpoints hold is read ---------------------------------------------------------------------------------------


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


# The harness can fail -----------------------------------------------------------------------------------------------


def write_outside(_: bytes) -> None:
    Path("/dev/shm/emoe-was-here" if Path("/dev/shm").exists() else "/tmp/emoe-was-here").write_bytes(b"")


def two_lines(_: bytes) -> None:
    error = EmoeError("x")
    error.args = ("one\ntwo",)
    raise error


def long(_: bytes) -> None:
    error = EmoeError("x")
    error.args = ("x" * 10**5,)
    raise error


PLANTED = {
    "error": (lambda data: data.index(b"x"), ValueError),
    "two-lines": (two_lines, watch.Find),
    "long": (long, watch.Find),
    "program": (lambda _: os.system("true"), watch.Find),
    "process": (lambda _: subprocess.run(["true"], check=True), watch.Find),
    "code": (lambda _: exec("1"), watch.Find),
    "connection": (lambda _: __import__("socket").socket(), watch.Find),
    "unpickler": (lambda _: __import__("pickle").loads(b"cos\nsystem\n."), watch.Find),
    "write": (write_outside, watch.Find),
    "remove": (lambda _: os.remove("/nothing/here"), watch.Find),
    "hidden": (lambda _: hidden(lambda: os.system("true")), watch.Find),
}


def hidden(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except Exception as error:
        raise EmoeError("a damaged file") from error


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_bug_is_found(tmp_path, case):
    run, kind = PLANTED[case]
    with pytest.raises(kind):
        watch.judge(run, b"", tmp_path)
    assert watch._scratch is None


def test_planted_reads_outside_are_found(tmp_path):
    inside, secret = tmp_path / "in" / "a", watch.outside(tmp_path) / "b"
    for path in (inside, secret):
        path.parent.mkdir()
        path.write_bytes(b"")
    (tmp_path / "link").symlink_to(secret)
    watch.judge(lambda _: inside.read_bytes(), b"", tmp_path)
    watch.judge(lambda _: (tmp_path / "link").read_bytes(), b"", tmp_path)
    for path in (secret, tmp_path / "in" / ".." / "outside" / "b"):
        with pytest.raises(watch.Find, match="read"):
            watch.judge(lambda _, path=path: path.read_bytes(), b"", tmp_path)


def test_planted_waste_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.001)
    with pytest.raises(watch.Find, match=r"took .* s"):
        watch.judge(lambda _: sum(range(10**6)), b"", tmp_path)
    monkeypatch.setattr(watch, "SECONDS", 10)
    peaks = iter((100.0, 1200.0))
    monkeypatch.setattr(watch, "_peak", lambda: next(peaks))
    with pytest.raises(watch.Find, match="took 1100 MB"):
        watch.judge(lambda _: None, b"", tmp_path)


@pytest.mark.parametrize("name", BOMBS)
def test_the_bombs_of_the_corpus_are_stopped_before_torch(tmp_path, name):
    path = tmp_path / "a.ckpt"
    path.write_bytes(zipped((HERE / "corpus" / "zip-pickle" / name).read_bytes()[1:]))
    with pytest.raises(UnpicklingError):
        unpickle(path, zipped=True)


def test_the_driver(tmp_path):
    arguments = ["source", "--runs", "300", "--seed", "1", "--finds", str(tmp_path)]
    done = subprocess.run([sys.executable, HERE / "run.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert (summary["target"], summary["runs"], summary["seed"]) == ("source", 300, 1)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
if not {guided}:
    sys.modules["atheris"] = None
import run, targets
def planted(data):
    if data[:1] == b"b":
        if data[1:2] == b"u":
            if data[2:3] == b"g":
                raise ValueError("planted")
planted = run.atheris.instrument_func(planted) if run.atheris else planted
targets.TARGETS["planted"] = targets.Target(lambda folder: planted, lambda: iter([b"xxx"]), ("bug",))
run.main()
"""


@pytest.mark.parametrize("guided", [False, True])
def test_the_driver_finds_a_planted_bug(tmp_path, guided):
    if guided:
        pytest.importorskip("atheris")
    script, finds = tmp_path / "script.py", tmp_path / "finds"
    script.write_text(SCRIPT.format(folder=str(HERE), guided=guided))
    arguments = ["planted", "--runs", "100000", "--seed", "1", "--finds", str(finds)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ValueError: planted" in done.stdout + done.stderr
    assert ("atheris is not installed" in done.stderr) == (not guided)
    assert [path.read_bytes()[:3] for path in finds.iterdir()] == [b"bug"]
