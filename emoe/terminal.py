"""Lines on a terminal: whole, harmless, above the progress bar if there is one."""

from __future__ import annotations

import sys

from tqdm import tqdm

from emoe.redact import redacted


def show(line: str) -> None:
    """A line of results, on standard output."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def say(message: object) -> None:
    """A message, on standard error."""
    tqdm.write(f"emoe: {visible(redacted(' '.join(str(message).split())))}", file=sys.stderr)


def visible(text: str) -> str:
    """Control characters spelled out: in strangers' names and prompts they would break lines, or worse."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
