"""The same scores in every process; with other threads or neighbours, the same but for the last digits."""

from __future__ import annotations

import pytest
import torch
from processes import PROMPTS, SMALL, emoe

from emoe import EMoE

pytestmark = pytest.mark.faults

TOLERANCE = 1e-5  # relative, in float32


COMMAND = ("score", *PROMPTS, *SMALL, "--seeds", "2", "--json")


def test_a_process_prints_what_this_one_does(run):
    assert emoe(*COMMAND) == run(*COMMAND)


def test_two_processes_of_two_threads_print_the_same():
    environment = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    one, other = (emoe(*COMMAND, "--batch-size", "4", env=environment) for _ in range(2))
    assert (one[0], one[2]) == (0, "")
    assert one == other


@pytest.fixture(scope="module")
def model() -> EMoE:
    return EMoE.from_toml("miniature", dtype="float32")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 5, 18])
def test_in_batches_in_any_order(model, threads, size):
    """In all their digits, of which records keep fewer."""
    reading = {"size": 64, "seeds": 2}
    expected, before = model.score(PROMPTS, **reading), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = model.score(PROMPTS[::-1], **reading, batch_size=size)
    finally:
        torch.set_num_threads(before)
    for name in ("eu", "uncertainty", "relative", "aleatoric", "weights"):
        one, other = getattr(found, name).flip(0), getattr(expected, name)
        worst = ((one - other).abs() / other.abs().clamp(min=1e-30)).max().item()
        print(f"{threads} threads, batches of {size}: {name} differs by {worst:.1e} at most")
        assert worst < TOLERANCE
