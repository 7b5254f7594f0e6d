"""The command line: parse, run one command, say in one line what went wrong."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import traceback
from typing import NoReturn

from emoe import __version__
from emoe.commands import build, calibrate, demo, explain, generate, inspect, lock, score, study
from emoe.errors import EmoeError
from emoe.heap import keep_freed_memory
from emoe.terminal import say


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for anything the user can mend, 130 for Ctrl-C, 1 for a mistake of ours."""
    logging.getLogger("emoe").handlers = [_Warnings()]
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever the locale: prompts come in all languages
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        try:
            options = _parser().parse_args(arguments)
        finally:
            sys.stdout.flush()  # --help has been shown, and leaves
        return options.run(options)
    except EmoeError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # whoever read our output has left
        _drop_stdout()
        return 0
    except OSError as error:
        _drop_stdout()
        return _fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 2)
    except Exception as error:
        return _fail(f"this is a mistake in emoe ({type(error).__name__}: {error}); EMOE_DEBUG=1 shows where", 1)


def _fail(message: str, code: int) -> int:
    if os.environ.get("EMOE_DEBUG") == "1":
        traceback.print_exc()
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


def _parser() -> argparse.ArgumentParser:
    about = "How uncertain is a text-to-image model about a prompt?"
    parser = _Parser(prog="emoe", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"emoe {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in (demo, score, explain, generate, calibrate, study, build, inspect, lock):
        command.add_to(commands).allow_abbrev = False
    return parser


if __name__ == "__main__":
    sys.exit(main())
