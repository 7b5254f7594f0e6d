"""Files that appear whole or not at all, whatever stops the writing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from emoe.errors import EmoeError


def check_new(folder: Path) -> None:
    """EmoeError unless a folder of this name can be made. The disk is asked: permissions do not tell all."""
    try:
        folder.mkdir()
        folder.rmdir()
    except FileExistsError as error:
        raise EmoeError(f"{folder} is there already; name another with --out") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EmoeError(f"cannot make the folder {folder}: {reason}; name another with --out") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or folder to; it becomes `path` at the end. EmoeError from the disk."""
    new = path.with_name(f".{path.name[:60]}.{os.getpid()}.part")
    try:
        yield new
        os.replace(new, path)
    except (OSError, SafetensorError) as error:
        raise EmoeError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if new.is_dir():
            shutil.rmtree(new)
        elif new.exists():
            new.unlink()
