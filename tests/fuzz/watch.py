"""Watches a target while it reads one input, and says what no input may bring about.

Allowed are success and an EmoeError of one short line. A find is anything else: another error, an answer after more
than ten seconds or with more than a gigabyte, code that runs, a connection, a file opened outside of where it may be.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emoe.errors import EmoeError

SECONDS, MEGABYTES = 10.0, 1024  # of the processor, as tests run beside others
LONGEST_MESSAGE = 5000  # characters; a path may be 4096

# What only a file's own code would do; pickle.find_class is Python's own unpickler at work.
CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "subprocess.", "socket.", "pty.")
CODE += ("ctypes.dlopen", "pickle.find_class", "code.__new__", "function.__new__", "urllib.", "http.", "webbrowser.")
CHANGES = ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")
CHANGES += ("os.chown", "os.utime", "os.setxattr", "shutil.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Run = Callable[[bytes], None]


class Find(BaseException):
    """Not an Exception, so that no handler for whatever a damaged file does can hide it."""


def outside(scratch: Path) -> Path:
    """A folder of files that no input's names may reach."""
    return scratch / "outside"


def judge(run: Run, data: bytes, scratch: Path) -> None:
    """Run a target on one input; Find, or the target's own error, if that does what no input may bring about.

    scratch: the one folder in which files may be written.
    """
    start, memory = time.process_time(), _peak()
    try:
        with _watching(scratch):
            run(data)
    except EmoeError as error:
        check_message(error)
    if (took := time.process_time() - start) > SECONDS:
        raise Find(f"took {took:.1f} s")
    if (grown := _peak() - memory) > MEGABYTES:
        raise Find(f"took {grown:.0f} MB")


def check_message(error: EmoeError) -> None:
    message = str(error)
    if not message or len(message.splitlines()) != 1:
        raise Find(f"a message that is not one line: {message[:200]!r}") from error
    if len(message) > LONGEST_MESSAGE:
        raise Find(f"a message of {len(message)} characters: {message[:200]!r}") from error


def _peak() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# Python's audit events -----------------------------------------------------------------------------------------------

_scratch: str | None = None  # None while nothing is watched: a hook cannot be taken off again


@contextmanager
def _watching(scratch: Path) -> Iterator[None]:
    global _scratch
    if _hear not in _hooks:
        _hooks.append(_hear)
        sys.addaudithook(_hear)
    _scratch = str(scratch)
    try:
        yield
    finally:
        _scratch = None


_hooks: list[Callable[..., None]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _scratch is None:
        return
    if event == "open":
        path, _, flags = arguments
        _check_open(path, flags or 0)
    elif event.startswith(CHANGES):
        for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
            _check_inside(path, event)
    elif event == "exec":
        file = arguments[0].co_filename
        if not file.startswith("<frozen") and not os.path.exists(file):  # imports are code of files
            _find(f"code from {file}")
    elif event.startswith(CODE):
        _find(f"{event}{arguments!r:.200}")


def _check_open(path: Any, flags: int) -> None:
    if isinstance(path, int):
        return
    if flags & WRITING:
        _check_inside(path, "open for writing")
    elif _place(path).startswith(f"{outside(Path(_scratch or ''))}{os.sep}"):
        _find(f"read {path}")


def _check_inside(path: Any, event: str) -> None:
    if not isinstance(path, int) and not f"{_place(path)}{os.sep}".startswith(f"{_scratch}{os.sep}"):
        _find(f"{event}: {path}")


def _place(path: Any) -> str:
    """Where a name leads, links aside: they are followed, as all files in the Hub's cache are links."""
    return os.path.abspath(os.fsdecode(path))


def _find(what: str) -> None:
    global _scratch
    _scratch = None  # what tells of it may open files
    raise Find(what)
