"""A byte-pair tokenizer like CLIP's.

It knows the words of all languages, covered or not, so that a prompt's length in tokens does not tell its coverage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from transformers import CLIPTokenizer

from emoe.tokenizer import byte_tokenizer, clip_tokenizer


def train_tokenizer(captions: Iterable[str], merges: int) -> CLIPTokenizer:
    """Merge the most frequent neighbours, at most `merges` times; ties go to the last in the alphabet.

    (The library's own trainer breaks ties another way every time.)
    """
    backend = clip_tokenizer().backend_tokenizer
    words: Counter[str] = Counter()
    for text in captions:
        cut = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        words.update(word for word, _ in cut)
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}
    return byte_tokenizer(learned)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
