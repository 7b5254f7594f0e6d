"""The same scores in every process; with other threads or neighbours, the same but for the last digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from processes import PROMPTS, SMALL, emoe

from emoe import EMoE

pytestmark = pytest.mark.faults

TOLERANCE = 1e-5  # relative, in float32


@contextmanager
def threading(count: int) -> Iterator[None]:
    """So many threads, in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_prints_the_same(run, threads):
    """To the last digit, for the same settings."""
    command = ("score", *PROMPTS[:4], *SMALL, "--seeds", "2", "--batch-size", "3", "--json")
    expected = emoe(*command, env={"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})
    assert expected[0] == 0
    with threading(threads):
        assert run(*command) == expected


@pytest.fixture(scope="module")
def model() -> EMoE:
    return EMoE.from_toml("miniature", dtype="float32")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 5, 18])
def test_in_batches_in_any_order(model, threads, size):
    """In all their digits, of which records keep fewer."""
    reading = {"size": 64, "seeds": 2}
    expected = model.score(PROMPTS, **reading)
    with threading(threads):
        found = model.score(PROMPTS[::-1], **reading, batch_size=size)
    for name in ("eu", "uncertainty", "relative", "aleatoric", "weights"):
        one, other = getattr(found, name).flip(0), getattr(expected, name)
        worst = ((one - other).abs() / other.abs().clamp(min=1e-30)).max().item()
        print(f"{threads} threads, batches of {size}: {name} differs by {worst:.1e} at most")
        assert worst < TOLERANCE
