"""The one exception that means: the input is wrong, and here is how to mend it."""

from collections.abc import Iterator
from contextlib import contextmanager


class EmoeError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, what to do."""


@contextmanager
def about(where: str) -> Iterator[None]:
    """Begin the message of an EmoeError with the place that it belongs to."""
    try:
        yield
    except EmoeError as error:
        raise EmoeError(f"{where}: {error}") from error
