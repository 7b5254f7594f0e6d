"""weights.toml -> frozen dataclasses. Every mistake is named by its key, with the remedy."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from emoe.choices import GATES, LAYERS, SPLITS
from emoe.errors import EmoeError, shown
from emoe.shipped import SHIPPED, meant

HASH, NO_HASH = re.compile(r"[0-9a-fA-F]{64}"), "must be 64 hexadecimal digits; `emoe inspect` prints it"
LONGEST = 2**17  # characters; 64 experts with long descriptors take half of that
# A key of many parts, of which ours have one: tomllib takes the square of their number, or worse.
DEEP = re.compile(r"""(?<![\w-])((?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){50}""")
LORAS = 'a list of tables, [{ source = "...", scale = 1.0 }]'
EXAMPLE = 'see weights.toml in the project, or write base = "owner/name" and two or more [[expert]] tables'


@dataclass(frozen=True)
class LoraSource:
    """A LoRA, and how much of it an expert takes."""

    source: str
    scale: float = 1.0


@dataclass(frozen=True)
class Expert:
    source: str
    positive: str | None = None  # descriptors: what a prompt for this expert asks for,
    negative: str | None = None  # and what its negative prompt does
    name: str | None = None
    sha256: str | None = None  # of the file that holds its UNet
    loras: tuple[LoraSource, ...] = ()  # that change its mixed layers


@dataclass(frozen=True)
class Weights:
    """A mixture, as weights.toml describes it. Either `base` and `experts`, or `segmoe`."""

    path: Path
    base: str | None = None
    experts: tuple[Expert, ...] = ()
    segmoe: str | None = None
    text_encoder: str | None = None  # instead of the base's
    vae: str | None = None  # instead of the base's
    tokenizer: str | None = None  # instead of the base's
    revision: str | None = None  # of Hub sources that name none
    layers: str = "all"
    top: int | None = None  # experts per prompt; None where a SegMoE checkpoint tells, or the gate is uniform
    gate: str | None = None  # None where a SegMoE checkpoint tells
    split: str | None = None  # None: the first cross-attention, or feed-forward if only those are mixed
    temperature: float = 1.0
    sha256: Mapping[str, str] | None = None  # of every file that is read, as `emoe lock` writes it

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.path.parent

    @property
    def labels(self) -> list[str]:
        """What to call the experts in messages: "expert 2 (dreamshaper)"."""
        return [f"expert {i}" + (f" ({e.name})" if e.name else "") for i, e in enumerate(self.experts, start=1)]


TOP_KEYS = {f.name for f in fields(Weights)} - {"path", "experts"} | {"expert"}
EXPERT_KEYS = {f.name for f in fields(Expert)}
LORA_KEYS = {f.name for f in fields(LoraSource)}


def read_weights(path: str | Path) -> Weights:
    """Parse and check a weights.toml. Raises EmoeError, in one line, for the first mistake.

    path: a file; or "miniature", "miniature-bootstrap", the families that are shipped.
    """
    if not str(path):
        raise EmoeError("the weights.toml to read has no name; name a file, or miniature")
    path = SHIPPED.get(str(path), Path(path))
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(LONGEST + 1)
    except FileNotFoundError as error:
        name = meant(str(path))
        remedy = "name another (the paper's is weights.toml in emoe's own folder), or try miniature"
        raise EmoeError(f"there is no {path.absolute()}; {f'did you mean {name}?' if name else remedy}") from error
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}; name a weights.toml") from error
    except UnicodeDecodeError as error:
        raise EmoeError(f"{path} is no weights.toml, or not in UTF-8; {EXAMPLE}") from error
    if len(text) > LONGEST:
        raise EmoeError(f"{path} is longer than {LONGEST} characters; a mixture takes a few lines, {EXAMPLE}")
    if DEEP.search(text):
        raise EmoeError(f"{path} has a key of many parts; the keys are {', '.join(sorted(TOP_KEYS))}, without dots")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"{path} is not valid TOML: {error}{_meant(str(error), text)}") from error
    return parse_weights(table, path)


def _meant(error: str, text: str) -> str:
    """A remedy for TOML's usual traps."""
    if "('expert',)" in error:
        return "; write [[expert]], with double brackets"
    if re.search(r'"[A-Za-z]:\\', text):
        return (
            "; in double quotes a backslash begins an escape: write C:/models/mine.safetensors, or take single quotes"
        )
    return ""


def parse_weights(table: Mapping[str, Any], path: Path) -> Weights:
    """The same, from a parsed table; `path` is for messages and for relative paths."""
    reader = _Reader(path, table, "", TOP_KEYS)
    experts = reader.tables("expert", "[[expert]] tables, with double brackets")
    segmoe = reader.text("segmoe")
    gate = reader.one_of("gate", GATES) or (None if segmoe else "prompt")
    weights = Weights(
        path=path,
        base=reader.text("base"),
        experts=tuple(_expert(path, i, expert) for i, expert in enumerate(experts, start=1)),
        segmoe=segmoe,
        text_encoder=reader.text("text_encoder"),
        vae=reader.text("vae"),
        tokenizer=reader.text("tokenizer"),
        revision=reader.text("revision"),
        layers=reader.one_of("layers", tuple(LAYERS)) or "all",
        top=reader.integer("top") or (2 if gate in ("prompt", "hidden") and not segmoe else None),
        gate=gate,
        split=reader.one_of("split", SPLITS["all"]),
        temperature=reader.number("temperature", 1.0, 1e-6, 1e6),
        sha256=reader.hashes("sha256"),
    )
    _check_parts(weights, reader)
    if weights.base:
        check(weights)
    return weights


def _expert(path: Path, number: int, table: Mapping[str, Any]) -> Expert:
    reader = _Reader(path, table, f"expert {number}: ", EXPERT_KEYS)
    loras = reader.tables("loras", LORAS)
    expert = Expert(
        source=reader.text("source") or "",
        positive=reader.text("positive"),
        negative=reader.text("negative", may_be_empty=True),
        name=reader.text("name"),
        sha256=reader.text("sha256"),
        loras=tuple(_lora(path, f"expert {number}: loras[{i}]: ", lora) for i, lora in enumerate(loras)),
    )
    if not expert.source:
        raise reader.wrong("source", "is missing; name a file, a folder, a Hub repository or a Civitai version")
    if expert.sha256 and not HASH.fullmatch(expert.sha256):
        raise reader.wrong("sha256", NO_HASH)
    return expert


def _lora(path: Path, where: str, table: Mapping[str, Any]) -> LoraSource:
    reader = _Reader(path, table, where, LORA_KEYS)
    source = reader.text("source")
    if not source:
        raise reader.wrong("source", "is missing; name a file, a Hub repository or a Civitai version")
    return LoraSource(source, reader.number("scale", 1.0, -100, 100))


def _check_parts(weights: Weights, reader: _Reader) -> None:
    if weights.segmoe:
        for key, given in (("base", weights.base), ("expert", weights.experts), ("layers", "layers" in reader.table)):
            if given:
                raise reader.wrong(key, "cannot stand beside segmoe, which brings its own; delete one of them")
        return
    if not weights.base:
        raise reader.wrong("base", f"is missing; {EXAMPLE}")
    if len(weights.experts) < 2:
        raise reader.wrong("expert", f"tables: there are {len(weights.experts)}; disagreement takes two: write more")
    for name, count in Counter(expert.name for expert in weights.experts if expert.name).items():
        if count > 1:
            raise reader.wrong("expert", f"has the name {shown(name)} {count} times; give each its own")


def check(weights: Weights) -> None:
    """EmoeError unless gate, top, split and descriptors go together. For a mixture whose experts are known."""
    count = len(weights.experts)

    def wrong(key: str, what: str) -> EmoeError:
        return EmoeError(f"{weights.path}: {key} {what}")

    if weights.split and weights.split not in SPLITS[weights.layers]:
        raise wrong(
            "split",
            f"is {weights.split!r}, which layers = {weights.layers!r} does not mix, so that all paths would be the "
            f"same; choose {' or '.join(map(repr, SPLITS[weights.layers]))}",
        )
    if weights.top and weights.top > count:
        raise wrong("top", f"is {shown(weights.top)}, more than there are experts; choose 1 to {count}")
    if weights.gate == "uniform" and weights.top not in (None, count):
        raise wrong("top", f"is {shown(weights.top)}, but gate = 'uniform' uses all {count} experts; delete it")
    if weights.gate != "prompt" and weights.temperature != 1.0:
        raise wrong("temperature", f"is the prompt gate's, and gate = {weights.gate!r} has none; delete it")
    if weights.gate == "prompt" or (weights.gate == "hidden" and not weights.segmoe):
        _check_descriptors(weights)


def _check_descriptors(weights: Weights) -> None:
    """Gates are made from them, and cannot choose between experts that have the same."""
    for label, expert in zip(weights.labels, weights.experts, strict=True):
        for key, told in (("positive", "good at"), ("negative", "bad at")):
            if getattr(expert, key) is None and weights.segmoe:
                raise EmoeError(f'{weights.path}: the SegMoE mixture tells no {key} of {label}; set gate = "hidden"')
            if getattr(expert, key) is None:
                raise EmoeError(
                    f'{weights.path}: {label}: {key} is missing; say what it is {told}, or set gate = "uniform"'
                )
    for (i, a), (j, b) in combinations(enumerate(weights.experts), 2):
        if (a.positive, a.negative) == (b.positive, b.negative) and weights.top < len(weights.experts):
            raise undecidable(weights, i, j)


def undecidable(weights: Weights, i: int, j: int) -> EmoeError:
    """The error that experts `i` and `j` are described alike while the gate has to choose."""
    count = len(weights.experts)
    return EmoeError(
        f"{weights.path}: {weights.labels[i]} and {weights.labels[j]} have the same positive and negative, so that the "
        f"gate cannot choose {weights.top} of {count}; change one, or set top = {count}"
    )


class _Reader:
    """A TOML table whose values are asked for by type."""

    def __init__(self, path: Path, table: Mapping[str, Any], where: str, known: set[str]):
        self.path, self.table, self.where = path, table, where
        for key in table:
            if key not in known:
                place = "; it goes under an [[expert]]" if key in EXPERT_KEYS else ""
                if where and key in TOP_KEYS:
                    place = "; it goes above the first [[expert]]"
                raise self.wrong(key, f"is no key{place}; the keys here are {', '.join(sorted(known))}")

    def wrong(self, key: str, what: str) -> EmoeError:
        return EmoeError(f"{self.path}: {self.where}{key} {what}")

    def text(self, key: str, may_be_empty: bool = False) -> str | None:
        value = self.table.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(key, f"is {shown(value)}; it must be text, in quotes")
        if not value.strip() and not may_be_empty:
            raise self.wrong(key, "is empty; write something into the quotes")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(key)
        if value is not None and value not in choices:
            raise self.wrong(key, f"is {shown(value)}; choose one of {', '.join(map(repr, choices))}")
        return value

    def integer(self, key: str) -> int | None:
        value = self.table.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise self.wrong(key, f"is {shown(value)}; it must be a whole number of at least 1")
        return value

    def hashes(self, key: str) -> Mapping[str, str] | None:
        """A table: file -> hash, in small letters."""
        value = self.table.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, f"is {shown(value)}; it must be a table of files, [{key}], as `emoe lock` writes it")
        for name, found in value.items():
            if not (isinstance(found, str) and HASH.fullmatch(found)):
                raise self.wrong(key, f"of {shown(name)} is {shown(found)}; it {NO_HASH}")
        return {name: found.lower() for name, found in value.items()}

    def tables(self, key: str, written: str) -> list[Mapping[str, Any]]:
        """written: how they are, for messages."""
        value = self.table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.wrong(key, f"is {shown(value)}; it must be {written}")
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self.table.get(key, default)
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.wrong(key, f"is {shown(value)}; it must be a number between {least:g} and {most:g}")
        return float(value)
