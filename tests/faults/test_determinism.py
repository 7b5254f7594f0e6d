"""The same scores in every process; with other threads or neighbours, the same but for the last digits."""

from __future__ import annotations

import json

import pytest
from processes import PROMPTS, SMALL, emoe

pytestmark = pytest.mark.faults

TOLERANCE = 1e-5  # relative, in float32
NUMBERS = ("eu", "uncertainty", "relative", "aleatoric")


def scored(threads: int, *more: str, prompts=PROMPTS) -> bytes:
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = ("score", *prompts, *SMALL, "--seeds", "2", "--json", *more)
    code, out, err = emoe(*command, env=environment)
    assert (code, err) == (0, "")
    return out.encode()


@pytest.fixture(scope="module")
def usual() -> bytes:
    return scored(1)


def numbers(lines: bytes) -> dict[str, list[float]]:
    """Of each prompt: its numbers and its route."""
    records = map(json.loads, lines.splitlines())
    return {record["prompt"]: [*(record[key] for key in NUMBERS), *record["weights"]] for record in records}


def test_the_same_settings_give_the_same_bytes(usual):
    assert scored(1) == usual
    assert scored(2) == scored(2)
    assert scored(1, "--batch-size", "5") == scored(1, "--batch-size", "5")


@pytest.mark.parametrize(
    ("threads", "more", "order"), [(2, (), 1), (1, ("--batch-size", "4"), 1), (2, ("--batch-size", "7"), -1)]
)
def test_other_settings_give_the_same_numbers(usual, threads, more, order):
    """Threads, batch sizes, the order of the prompts."""
    expected = numbers(usual)
    found = numbers(scored(threads, *more, prompts=PROMPTS[::order]))
    assert found.keys() == expected.keys()
    pairs = [pair for key in found for pair in zip(found[key], expected[key], strict=True)]
    worst = max(abs(a - b) / abs(b) if b else abs(a) for a, b in pairs)
    print(f"threads {threads}, {more}: {worst:.1e} at worst")
    assert worst < TOLERANCE
