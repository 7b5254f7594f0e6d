"""The one exception that means: the input is wrong, and here is how to mend it."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

LONGEST = 4000  # characters of a message; what strangers' files say can be longer


class EmoeError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, what to do."""

    def __init__(self, message: str):
        line = " ".join(message.splitlines())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        super().__init__(line)


@contextmanager
def about(where: str) -> Iterator[None]:
    """Begin the message of an EmoeError with the place that it belongs to."""
    try:
        yield
    except EmoeError as error:
        raise EmoeError(f"{where}: {error}") from error


def shown(value: object) -> str:
    """What a stranger's file says, for a message: short, however long, deep or large it is."""
    return _SHORT.repr(value)


def many(count: int, noun: str) -> str:
    """ "1 score", "2 scores"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def whole_number(name: str, value: object) -> int:
    """As an int, numpy's too. EmoeError for anything else."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise EmoeError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def real_number(name: str, value: object) -> float:
    """As a float, numpy's too. EmoeError for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise EmoeError(f"{name} is {value!r}; it must be a number")
    return float(value)


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring = 3, 60

    def repr_int(self, value: int, level: int) -> str:  # Python prints none of more than 4,300 digits
        return repr(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"


_SHORT = _Short()
