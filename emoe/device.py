"""Where the networks live, and in what precision."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from emoe import choices
from emoe.errors import EmoeError

log = logging.getLogger("emoe")

DEVICES = ("cpu", "cuda", "mps")
OUT_OF_MEMORY = re.compile("allocate memory|out of memory|ALLOC_FAILED")  # CPU, MPS, CUDA's libraries
DTYPES = {name: getattr(torch, name) for name in choices.DTYPES}


def choose_device(
    device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[torch.device, torch.dtype]:
    """ "auto" is the fastest device there is, and half precision where that is fast. EmoeError if there is none.

    A warning where float16 is asked for and slow.
    """
    device, dtype = str(device), str(dtype).removeprefix("torch.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.partition(":")[0] not in DEVICES:
        raise EmoeError(f"device is {device!r}; choose one of auto, {', '.join(DEVICES)}, cuda:1 and so on")
    if dtype not in ("auto", *DTYPES):
        raise EmoeError(f"dtype is {dtype!r}; choose one of auto, {', '.join(DTYPES)}")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch says it in a page
        raise EmoeError(f"device {device!r} is not there, or this torch was built without it; use cpu") from error
    auto = torch.float16 if chosen.type == "cuda" else torch.float32
    if chosen.type == "cpu" and dtype == "float16" and emulates_float16():
        log.warning("this processor has no arithmetic for float16, which makes it many times slower than float32")
    return chosen, DTYPES.get(dtype, auto)


def emulates_float16() -> bool:
    """Whether torch is known to compute float16 by way of other numbers on this CPU."""
    has_float16 = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)  # torch tells nobody else
    return has_float16 is not None and torch.backends.mkldnn.is_available() and not has_float16()


@contextmanager
def enough_memory(remedy: str = "use a smaller --size, or --batch-size where there is one") -> Iterator[None]:
    """Turn torch's ways of saying "out of memory" into one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise EmoeError(f"out of memory: {remedy}") from error
        raise


def wide(x: Tensor) -> Tensor:
    """In float32 at least, whatever the network's dtype."""
    return x if x.itemsize > 4 else x.float()


def check_finite(prompts: Sequence[str], values: Tensor, dtype: torch.dtype) -> None:
    """EmoeError unless the value (b,) that belongs to each prompt is finite."""
    for prompt, fine in zip(prompts, torch.isfinite(values).tolist(), strict=True):
        if not fine:
            half = dtype == torch.float16
            remedy = "use dtype float32" if half else "these checkpoints do not go together"
            raise EmoeError(f"{prompt[:60]!r}: activations are not finite in {dtype}; {remedy}")
