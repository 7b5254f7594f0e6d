"""Memory that is freed stays with the process.

By default glibc maps every large activation anew and gives it back after use, and the kernel zeroes each page again:
a tenth to a third of a score's time at SD1.5's size, by machine (`python bench/split.py`).
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # mallopt's names for them
MOST = 2**31 - 1  # bytes of free memory at the heap's end; what is beyond goes back


def keep_freed_memory(keep: bool = True) -> None:
    """A setting of the whole process: for programs of their own, not for a library to make. Only glibc has it."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_MAX, 0 if keep else 65536)  # glibc's own default
        libc.mallopt(TRIM_THRESHOLD, MOST if keep else 128 * 1024)
