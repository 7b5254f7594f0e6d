"""One process at a time writes to a place: two would double its records, or mix them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emoe.errors import EmoeError


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold `path` for this process; EmoeError if another one does. A process that is killed holds nothing.

    The lock is a file beside it, `.NAME.lock`, which goes when the work ends.
    """
    if not path.parent.is_dir():
        raise EmoeError(f"cannot write {path}: there is no folder {path.parent}")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise EmoeError(f"another emoe is writing {path}; wait until it ends, or name another --out") from error
    except (OSError, NotImplementedError, ValueError) as error:  # the last two: file systems, names without locks
        raise EmoeError(f"cannot lock {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it finds out
        lock.release()
