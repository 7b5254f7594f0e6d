"""The command line: parse, run one command, say in one line what went wrong."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from emoe import __version__
from emoe.commands import build, calibrate, demo, explain, generate, inspect, lock, score, study
from emoe.errors import EmoeError
from emoe.heap import keep_freed_memory
from emoe.redact import redacted
from emoe.shipped import SHIPPED
from emoe.terminal import say

AGAIN = 0.05  # seconds after which a signal that came at a bad moment is heard again


class Stopped(BaseException):
    """By a signal. Not KeyboardInterrupt, for which Python may end by SIGINT although it was caught."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for anything the user can mend, 1 for a mistake of ours; 130 for Ctrl-C, 143 for
    SIGTERM, 141 where whoever read the output has left."""
    logging.getLogger("emoe").handlers = [_Warnings()]
    keep_freed_memory()
    _reopen_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale: prompts come in all languages
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    heard: list[int] = []
    try:
        with _stopped_by_signals(heard):
            try:
                options = _parsed(arguments)
            finally:
                sys.stdout.flush()  # --help has been shown, and leaves
            if getattr(options, "weights", None) in SHIPPED and "OMP_NUM_THREADS" not in os.environ:
                os.environ["OMP_NUM_THREADS"] = "1"  # more gain little there, and wait for one another
            return options.run(options)
    except EmoeError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, Stopped):
        return _fail("stopped", 128 + (heard or [signal.SIGINT])[0])
    except BrokenPipeError:  # whoever read our output has left
        _drop_stdout()
        return 128 + 13  # SIGPIPE, by which other programs end then
    except OSError as error:
        _drop_stdout()
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 2)
    except Exception as error:
        if heard:  # libraries that were being imported have made an error of their own of it
            return _fail("stopped", 128 + heard[0])
        return _fail(f"this is a mistake in emoe ({type(error).__name__}: {error}); EMOE_DEBUG=1 shows where", 1)


def _reopen_closed() -> None:
    """Streams that the shell has closed (>&-) lead nowhere, else the next file opened would take their place."""
    closed = [name for name in ("stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for the whole run)
    if "stdout" in closed:
        say("standard output is closed: what would be printed is lost")


@contextmanager
def _stopped_by_signals(heard: list[int]) -> Iterator[None]:
    """SIGTERM, by which schedulers end a run, does what Ctrl-C does. heard: gets the signal's number."""

    alarm = getattr(signal, "SIGALRM", None)  # Windows has none

    def stop(number: int, frame: FrameType | None) -> None:
        if number != alarm:
            heard.append(number)
        if alarm:  # what is raised here can be lost, so it is raised until somebody deals with it
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            if _deaf(frame) or isinstance(sys.exc_info()[1], Stopped):
                return
        raise Stopped

    here = threading.current_thread() is threading.main_thread()  # no other thread may set them
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if here and signal.getsignal(n) is not signal.SIG_IGN]
    if numbers and alarm:
        numbers.append(alarm)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if alarm in numbers:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _deaf(frame: FrameType | None) -> bool:
    """Where nothing should be raised: libraries lose it while they are imported, or crash, and Python in a __del__."""
    while frame and frame.f_code.co_name != "__del__" and "<frozen importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _fail(message: str, code: int) -> int:
    if os.environ.get("EMOE_DEBUG") == "1":
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    say(message)
    return code


def _drop_stdout() -> None:
    """What is still buffered cannot be written; without this, Python says so at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EmoeError(f"{message} (see {self.prog} --help)")


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    options, others = _parser().parse_known_args(arguments)
    if others:
        words = hasattr(options, "prompt") and not others[0].startswith("-")
        quotes = "; put a prompt of several words in quotes" if words else ""
        raise EmoeError(f"unrecognized arguments: {' '.join(others)}{quotes} (see emoe {options.command} --help)")
    return options


def _parser() -> argparse.ArgumentParser:
    about = "How uncertain is a text-to-image model about a prompt?"
    parser = _Parser(prog="emoe", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"emoe {__version__}")
    asked = {"title": "commands", "required": True, "dest": "command", "metavar": "COMMAND"}
    commands = parser.add_subparsers(parser_class=_Parser, **asked)
    for command in (demo, score, explain, generate, calibrate, study, build, inspect, lock):
        command.add_to(commands).allow_abbrev = False
    return parser


if __name__ == "__main__":
    sys.exit(main())
