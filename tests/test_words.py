"""Words, in languages with and without spaces between them."""

from __future__ import annotations

import pytest

from emoe.words import pattern, words_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red  bus,", ["a", "red", "bus"]),
        ("masterpiece,best quality,1girl", ["masterpiece", "best", "quality", "1girl"]),
        ("(red:1.2)/blue—green", ["red", "1.2", "blue", "green"]),
        ("it's a well-known T-shirt.", ["it's", "a", "well-known", "T-shirt."]),
        ("赤い、猫。", ["赤", "い", "猫"]),
        ("แมว", ["แ", "ม", "ว"]),
        ("赤いbus と猫", ["赤", "い", "bus", "と", "猫"]),
        ("披萨", ["披", "萨"]),
        ("한국어 버스", ["한국어", "버스"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words(text, expected):
    assert [text[start:end] for start, end in words_of(text)] == expected


@pytest.mark.parametrize(
    ("word", "held", "others"),
    [
        ("red", ["Red wine", "red, or not?", "so red"], ["a covered wagon", "reddish"]),
        ("pizza*", ["pala pizzaa", "Pizza", "pizzapala"], ["minipizza"]),
        ("赤い", ["赤いバス", "とても赤いバス"], ["青いバス"]),
        ("披萨", ["一块披萨在桌上"], ["一块蛋糕"]),
        (" red bus ", ["a red bus here"], ["red  bus", "a redbus"]),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_patterns(word, held, others):
    assert all(pattern(word).search(text) for text in held)
    assert not any(pattern(word).search(text) for text in others)
