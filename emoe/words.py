"""What counts as a word, in prompts of any language."""

from __future__ import annotations

import re

# Chinese, Japanese, Thai, Lao, Burmese, Khmer put no space between words, so there every character counts as one.
SPACELESS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
BETWEEN = r"\s,;:|/()<>\[\]{}、。，！？：；「」（）·—–…"
WORD = re.compile(rf"[{SPACELESS}]|[^{BETWEEN}{SPACELESS}]+")


def words_of(text: str) -> list[tuple[int, int]]:
    """Where in a text its words are: (start, end)."""
    return [match.span() for match in WORD.finditer(text)]


def pattern(word: str) -> re.Pattern[str]:
    """Finds a word in a text, whatever its case: "red" not in "covered", "pizza*" also in "pizzaa"; 赤い anywhere."""
    stem, goes_on = stem_of(word), word.strip().endswith("*")
    start = "" if re.match(f"[{SPACELESS}]", stem) else r"(?<!\w)"
    end = "" if goes_on or re.search(f"[{SPACELESS}]$", stem) else r"(?!\w)"
    return re.compile(start + re.escape(stem) + end, re.IGNORECASE)


def stem_of(word: str) -> str:
    """Without the asterisk that says that it may go on."""
    return word.strip().removesuffix("*")
