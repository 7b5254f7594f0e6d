"""Files that appear whole or not at all, whatever stops the writing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from emoe.errors import EmoeError


def make_folder(folder: Path, new: bool = False) -> None:
    """EmoeError unless the folder can be made; or, if it need not be `new`, is there already."""
    try:
        folder.mkdir(parents=not new, exist_ok=not new)
    except FileExistsError as error:
        why = "is there already" if new else "is not a folder"
        raise EmoeError(f"{folder} {why}; name another with --out") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EmoeError(f"cannot make the folder {folder}: {reason}; name another with --out") from error


@contextmanager
def made(*folders: Path) -> Iterator[None]:
    """Folders for the work inside. If it fails, those that it made and that are still empty go again."""
    new = [folder for folder in folders if not os.path.exists(folder)]
    try:
        for folder in folders:
            make_folder(folder)
        yield
    except BaseException:
        for folder in reversed(new):
            with suppress(OSError):  # it holds something, or could not be made
                folder.rmdir()
        raise


def check_new(folder: Path) -> None:
    """EmoeError unless a folder of this name can be made. The disk is asked: permissions do not tell all."""
    make_folder(folder, new=True)
    folder.rmdir()


def check_place(path: Path) -> None:
    """EmoeError unless a file can be written here, before the work is done that is to fill it."""
    if path.is_dir():
        raise EmoeError(f"cannot write {path}: it is a folder")
    with atomic(path, keep=False) as new:
        new.touch()


def settle(path: Path) -> None:
    """See a file onto its disk, so that its name never outlives its content; what does not fit is an OSError now."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic(path: Path, keep: bool = True) -> Iterator[Path]:
    """A name beside `path` to write a file or folder to; it becomes `path` at the end. EmoeError from the disk.

    keep: False to try only, and leave `path` as it is.
    """
    real = Path(os.path.realpath(path)) if path.is_symlink() else path  # what a link leads to is replaced
    new = real.with_name(f".{real.name[:60]}.{os.getpid()}.part")
    try:
        yield new
        if keep:
            if new.is_file():
                settle(new)
            os.replace(new, real)
    except (OSError, SafetensorError) as error:
        raise EmoeError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if new.is_dir():
            shutil.rmtree(new)
        elif new.exists():
            new.unlink()
