"""Any bytes where strangers' are read: the finds of fuzzing and the seeds of every target, and changes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from beside_weights import SETTINGS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS
from weights_files import header

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").glob("*/*"))


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
