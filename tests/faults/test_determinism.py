"""The same scores in every process; with other threads or neighbours, the same but for the last digits."""

from __future__ import annotations

import json

import pytest
from processes import PROMPTS, SMALL, emoe

pytestmark = pytest.mark.faults

TOLERANCE = 1e-5  # relative, in float32
NUMBERS = ("eu", "uncertainty", "relative", "aleatoric")


COMMAND = (*SMALL, "--seeds", "2", "--json")


def scored(threads: int, *more: str) -> bytes:
    """By a process of its own."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    code, out, err = emoe("score", *PROMPTS, *COMMAND, *more, env=environment)
    assert (code, err) == (0, "")
    return out.encode()


@pytest.fixture(scope="module")
def usual() -> bytes:
    return scored(1)


def differ(found: bytes, expected: bytes) -> float:
    """The largest relative difference of a number or a weight of any prompt, whatever the order."""
    worst = 0.0
    one, other = ({r["prompt"]: r for r in map(json.loads, lines.splitlines())} for lines in (found, expected))
    assert one.keys() == other.keys()
    for prompt, record in one.items():
        numbers, others = ([*(r[key] for key in NUMBERS), *r["weights"]] for r in (record, other[prompt]))
        worst = max(worst, *(abs(a - b) / abs(b) if b else abs(a) for a, b in zip(numbers, others, strict=True)))
    return worst


def test_in_two_processes(usual):
    """The same bytes."""
    assert scored(1) == usual


def test_with_two_threads(usual):
    """The same bytes every time; beside those of one thread, the same but for the last digits."""
    found = scored(2, "--batch-size", "4")
    assert scored(2, "--batch-size", "4") == found
    assert differ(found, usual) < TOLERANCE


@pytest.mark.parametrize("size", [1, 2, 5, 18])
def test_in_batches_in_any_order(run, usual, size):
    code, out, _ = run("score", *PROMPTS[::-1], *COMMAND, "--batch-size", str(size))
    assert code == 0
    worst = differ(out.encode(), usual)
    print(f"batches of {size}: {worst:.1e} at worst")
    assert worst < TOLERANCE
