"""Freed memory that is kept is not mapped anew: counted in page faults."""

from __future__ import annotations

import ctypes
import resource
import sys
from multiprocessing import get_context

import pytest
import torch

from emoe.heap import keep_freed_memory

MEGABYTES = 200


def faults(keep: bool) -> int:
    """Of a large tensor, the fewest of several times: a new heap takes a few to settle."""
    keep_freed_memory(keep)
    counts = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(MEGABYTES * 2**18)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone has the setting"
)
def test_freed_memory_is_not_mapped_anew():
    with get_context("spawn").Pool(1) as fresh:  # the setting is a process's
        given_back, kept = fresh.map(faults, [False, True], chunksize=2)
    assert given_back >= MEGABYTES / 2  # a page has 2 MB at most
    assert kept < given_back / 10
