"""What a target is: something that reads strangers' bytes, inputs to begin with, and words to put into them.

The first byte of many inputs is a letter that says what the rest is: `r`, the file as it is; others, a part of a file
that is put into an otherwise valid one, so that changed bytes get past checksums and lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from watch import Run, check_message

from emoe.errors import EmoeError

JSON_WORDS = ('{"', '":', "null", "true", "1e999", "-1", "[[[[", "]]]]", "NaN", "\\ud800", "\\n", "0" * 40)


class Target(NamedTuple):
    begin: Callable[[Path], Run]  # takes a folder for its files
    seeds: Callable[[], Iterator[bytes]]  # small, and most of them valid
    words: tuple[str, ...] = ()  # that mutations may put in


def refusals(*attempts: Callable[[], object]) -> None:
    """Make every attempt, also after one is refused."""
    for attempt in attempts:
        try:
            attempt()
        except EmoeError as error:
            check_message(error)
