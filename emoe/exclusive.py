"""One process at a time writes to a place: two would double its records, or mix them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emoe.errors import EmoeError


@contextmanager
def exclusive(path: Path, folder: bool = False) -> Iterator[None]:
    """Hold `path` for this process; EmoeError if another one does. A process that is killed holds nothing.

    The lock is a file beside it, `.NAME.lock`, which goes when the work ends.  folder: whether `path` is one.
    """
    if not path.name or (path.exists() and path.is_dir() != folder):
        raise EmoeError(
            f"{path} is not a {'folder' if folder else 'file'} that can be written to; name another with --out"
        )
    if not path.parent.is_dir():
        raise EmoeError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        real = path.resolve()  # a file has one lock, whatever links lead to it
        lock = FileLock(real.with_name(f".{real.name}.lock"))
        lock.acquire(blocking=False)
    except Timeout as error:
        raise EmoeError(f"another emoe is writing {path}; wait until it ends, or name another --out") from error
    except (OSError, NotImplementedError, ValueError, RuntimeError) as error:  # also of names that go round in circles
        raise EmoeError(f"cannot lock {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it finds out
        lock.release()
