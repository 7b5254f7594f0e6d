"""CLIP's own tokenizer, and smaller ones of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from transformers import CLIPTokenizer


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own, for checkpoints that come without one."""
    text = Path(__file__).with_name("clip_merges.txt").read_text(encoding="utf-8")
    return byte_tokenizer([tuple(line.split(" ")) for line in text.splitlines()])


def byte_tokenizer(merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    """A tokenizer of CLIP's kind; its vocabulary follows from its merges.

    The 256 bytes, the same at the end of a word, every merge, two marks.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(set(range(256)) - set(printable))
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]
    words = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=77)
