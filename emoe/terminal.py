"""Lines on a terminal: whole, harmless, above the progress bar if there is one."""

from __future__ import annotations

import json
import sys
from typing import Any

from tqdm import tqdm

from emoe.redact import redacted


def show(line: str) -> None:
    """A line of results, on standard output."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def say(message: object) -> None:
    """A message, on standard error."""
    tqdm.write(f"emoe: {visible(redacted(' '.join(str(message).split())))}", file=sys.stderr)


def as_json(value: Any) -> str:
    """In one line. What a terminal would act on is spelled out, which is the same JSON."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def _spelled(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else json.dumps(c)[1:-1]


def visible(text: str) -> str:
    """Control characters spelled out: in strangers' names and prompts they would break lines, or worse."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
