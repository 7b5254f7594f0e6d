"""weights.toml: every mistake is named by its key, with the remedy."""

from pathlib import Path

import pytest

from emoe.config import read_weights
from emoe.errors import EmoeError

ROOT = Path(__file__).parents[1]
GOOD = """
base = "a/b"
[[expert]]
source = "a/b"
positive = "photo"
negative = "drawing"
[[expert]]
source = "c/d"
positive = "anime"
negative = ""
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "weights.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_one(tmp_path):
    weights = read_weights(write(tmp_path, GOOD))
    assert (weights.base, weights.layers, weights.top, weights.gate, weights.temperature) == (
        "a/b",
        "all",
        2,
        "prompt",
        1,
    )
    assert [e.source for e in weights.experts] == ["a/b", "c/d"]
    assert weights.folder == tmp_path


def test_segmoe_alone(tmp_path):
    weights = read_weights(write(tmp_path, 'segmoe = "x/y"'))
    assert (weights.segmoe, weights.gate, weights.top) == ("x/y", None, None)


MISTAKES = {
    "unknown key": ("topp = 2\n" + GOOD, "topp is no key; the keys here are base, expert, gate"),
    "unknown key of an expert": (GOOD + 'soruce = "x"', "expert 2: soruce is no key"),
    "no base": (GOOD.replace('base = "a/b"', ""), "base is missing"),
    "empty base": (GOOD.replace('base = "a/b"', 'base = " "'), "base is empty"),
    "base of the wrong type": (GOOD.replace('base = "a/b"', "base = 3"), "base is 3; it must be text"),
    "no experts": ('base = "a/b"', "expert tables: there are 0"),
    "one expert": (GOOD[: GOOD.rindex("[[")], "expert tables: there are 1"),
    "single brackets": ('base = "a/b"\n[expert]\nsource = "x"', "must be [[expert]] tables"),
    "no source": (GOOD.replace('source = "c/d"', ""), "expert 2: source is missing"),
    "no positive": (GOOD.replace('positive = "photo"', ""), "expert 1: positive is missing"),
    "no negative": (GOOD.replace('negative = ""', ""), "expert 2: negative is missing"),
    "top above M": ("top = 3\n" + GOOD, "top is 3, more than there are experts; choose 1 to 2"),
    "top zero": ("top = 0\n" + GOOD, "top is 0; it must be a whole number of at least 1"),
    "top true": ("top = true\n" + GOOD, "top is True"),
    "top text": ('top = "2"\n' + GOOD, "top is '2'"),
    "layers": ('layers = "al"\n' + GOOD, "layers is 'al'; choose one of 'attn', 'ff', 'all'"),
    "gate": ('gate = "random"\n' + GOOD, "gate is 'random'; choose one of"),
    "hidden gate": ('gate = "hidden"\n' + GOOD.replace('positive = "photo"', ""), "expert 1: positive is missing"),
    "uniform gate with top": ('gate = "uniform"\ntop = 1\n' + GOOD, "uses all 2 experts; delete it"),
    "split": ('split = "conv"\n' + GOOD, "split is 'conv'; choose one of"),
    "split not mixed": ('layers = "attn"\nsplit = "ff"\n' + GOOD, "which layers = 'attn' does not mix"),
    "split not mixed, ff": ('layers = "ff"\nsplit = "attn2"\n' + GOOD, "choose 'ff'"),
    "temperature": ("temperature = 0\n" + GOOD, "temperature is 0; it must be a number between 1e-06 and 1e+06"),
    "temperature tiny": ("temperature = 1e-40\n" + GOOD, "temperature is 1e-40"),
    "temperature huge": (f"temperature = {10**400}\n" + GOOD, "temperature is"),
    "temperature nan": ("temperature = nan\n" + GOOD, "temperature is nan"),
    "sha256": (GOOD + 'sha256 = "abc"', "expert 2: sha256 must be 64 hexadecimal digits"),
    "names": (GOOD.replace("[[expert]]", '[[expert]]\nname = "x"'), "has the name 'x' 2 times"),
    "loras that are text": (GOOD + 'loras = "x"', "expert 2: loras is 'x'; it must be a list of tables, [{ source"),
    "loras of text": (GOOD + 'loras = ["x"]', "expert 2: loras is ['x']; it must be a list of tables"),
    "a lora of nothing": (GOOD + "loras = [{ scale = 1 }]", "expert 2: loras[0]: source is missing"),
    "a lora's scale": (
        GOOD + 'loras = [{ source = "x", scale = 101 }]',
        "scale is 101; it must be a number between -100",
    ),
    "loras at the top": ("loras = []\n" + GOOD, "loras is no key; it goes under an [[expert]]; the keys here are base"),
    "a lora's key": (
        GOOD + 'loras = [{ source = "x", weight = 1 }]',
        "weight is no key; the keys here are scale, source",
    ),
    "same descriptors": (
        "top = 1\n" + GOOD.replace("anime", "photo").replace('""', '"drawing"'),
        "expert 1 and expert 2 have the same positive and negative, so that the gate cannot choose 1 of 2",
    ),
    "segmoe and base": ('segmoe = "x/y"\n' + GOOD, "base cannot stand beside segmoe"),
    "segmoe and layers": ('segmoe = "x/y"\nlayers = "all"', "layers cannot stand beside segmoe"),
    "a hash too long": (GOOD + f'sha256 = "{"a" * 65}"', "expert 2: sha256 must be 64 hexadecimal digits"),
    "a novel": ("# " + "x" * 2**17, "is longer than 131072 characters"),
    "not toml": ("base = ", "is not valid TOML"),
    "two of single brackets": (GOOD.replace("[[expert]]", "[expert]"), "; write [[expert]], with double brackets"),
    "backslashes": (r'base = "C:\Users\me"', "is not valid TOML"),
    "a backslash is an escape": (r'base = "C:\Users\me"', "write C:/models/mine.safetensors"),
    "too deep": ("x = " + "[" * 9999, "is not valid TOML"),
    "too long a number": ("top = " + "9" * 9999, "is not valid TOML"),
    "empty positive": (GOOD.replace('"photo"', '""'), "expert 1: positive is empty; write something into the quotes"),
    "not text": (b"\xff\xfe", "or not in UTF-8"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path, case):
    text, sentence = MISTAKES[case]
    path = tmp_path / "weights.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EmoeError) as caught:
        read_weights(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_same_descriptors_are_legal_where_all_are_chosen(tmp_path):
    text = GOOD.replace("anime", "photo").replace('""', '"drawing"')
    assert read_weights(write(tmp_path, "top = 2\n" + text)).top == 2
    assert read_weights(write(tmp_path, 'gate = "uniform"\n' + text)).top is None


@pytest.mark.parametrize("gate", ["hidden", "uniform"])
def test_only_the_prompt_gate_has_a_temperature(tmp_path, gate):
    text = f'gate = "{gate}"\ntemperature = {{}}\n{GOOD}'
    assert read_weights(write(tmp_path, text.format(1))).gate == gate
    with pytest.raises(EmoeError, match=r"temperature is the prompt gate's, and gate = .* has none; delete it"):
        read_weights(write(tmp_path, text.format(0.5)))


def test_the_uniform_gate_needs_no_descriptors(tmp_path):
    text = 'base = "a/b"\ngate = "uniform"\n[[expert]]\nsource = "a/b"\n[[expert]]\nsource = "c/d"\n'
    assert read_weights(write(tmp_path, text)).experts[1].positive is None


def test_a_byte_order_mark_does_not_matter(tmp_path):
    path = tmp_path / "weights.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_weights(path).base == "a/b"


@pytest.mark.parametrize("value", [1e-6, 1, 1e6])
def test_temperatures(tmp_path, value):
    found = read_weights(write(tmp_path, f"temperature = {value}\n" + GOOD)).temperature
    assert (found, type(found)) == (value, float)


def test_hashes_are_read_in_either_case(tmp_path):
    assert read_weights(write(tmp_path, GOOD + f'[sha256]\n"a.ckpt" = "{"A" * 64}"')).sha256 == {"a.ckpt": "a" * 64}


def test_experts_are_called_by_their_names(tmp_path):
    text = GOOD.replace("[[expert]]", '[[expert]]\nname = "red"', 1)
    assert read_weights(write(tmp_path, text)).labels == ["expert 1 (red)", "expert 2"]


def test_no_file(tmp_path):
    with pytest.raises(EmoeError, match=r"there is no .*weights\.toml; name another"):
        read_weights(tmp_path / "weights.toml")
    with pytest.raises(EmoeError, match="cannot read"):
        read_weights(tmp_path)


def test_the_shipped_cards():
    """The paper's two mixtures (Appendix E)."""
    card = read_weights(ROOT / "weights.toml")
    assert (len(card.experts), card.top, card.layers, card.gate) == (4, 2, "all", "prompt")
    assert card.experts[0].source == card.base
    runway = read_weights(ROOT / "weights-runway.toml")
    assert (len(runway.experts), runway.top, runway.layers) == (4, 4, "all")
    assert len({(e.positive, e.negative) for e in runway.experts}) == 1


def test_descriptors_that_differ_in_one_are_told_apart(tmp_path):
    assert read_weights(write(tmp_path, "top = 1\n" + GOOD.replace("anime", "photo"))).top == 1
