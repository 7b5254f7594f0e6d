"""One file over HTTP: resumed where it broke off, verified, and in place only when it is whole."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import requests
from filelock import FileLock
from tqdm import tqdm

from emoe.atomic import settle
from emoe.checkpoint.hashes import file_sha256
from emoe.checkpoint.source import plain
from emoe.errors import EmoeError

USER_AGENT = "emoe"  # a browser's name would turn errors into web pages
ATTEMPTS = 6  # in a row without a byte; a download that moves on goes on
CHUNK = 1 << 16  # bytes; what a broken connection loses at most


def download(
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str | None,
    token: str | None = None,
    answers: Mapping[int, str] | None = None,
) -> Path:
    """Fetch `url` to `target`; a target of the right size that is there already is taken as it is.

    size: bytes.  sha256: lower-case hex, None where it is not known.  answers: status -> what it means.
    The token goes to the first host alone: `requests` drops it when it is sent on to another. Two processes that
    start at once wait for each other. Raises EmoeError; what has arrived is kept for the next try, unless it is wrong.
    """
    if _is_here(target, size):
        return target  # without a lock: files appear whole, and a cache may be read-only
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not _is_here(target, size):
                part = target.with_name(target.name + ".part")
                _room(part, size)
                _fetch(url, part, size, token, answers or {})
                _verify(part, size, sha256)
                settle(part)
                os.replace(part, target)
    except OSError as error:
        raise EmoeError(f"cannot store {target}: {error.strerror or error}") from error
    return target


def _is_here(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _fetch(url: str, part: Path, size: int, token: str | None, answers: Mapping[int, str]) -> None:
    failures = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc="download", disable=not sys.stderr.isatty()) as bar:
        while (have := part.stat().st_size if part.exists() else 0) < size:
            bar.n = have
            try:
                _stream(url, part, have, size, token, answers, bar)
                reason = "the connection closed early"
            except requests.RequestException as error:
                reason = type(error).__name__
            moved = part.exists() and part.stat().st_size > have
            failures = 0 if moved else failures + 1
            if failures >= ATTEMPTS:
                raise EmoeError(f"the download of {plain(url)} keeps failing ({reason}); try again later")
            if not moved:
                time.sleep(2 ** (failures - 1))


def _stream(
    url: str, part: Path, have: int, size: int, token: str | None, answers: Mapping[int, str], bar: tqdm
) -> None:
    """Append what one request yields."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=60) as answer:
        _check(answer, url, part, have, size, answers)
        have = have if answer.status_code == 206 else 0  # 200: the server does not resume
        with part.open("ab" if have else "wb") as file:
            bar.n = have
            for chunk in answer.iter_content(CHUNK):
                have += len(chunk)
                if have > size:
                    raise _wrong(part, f"{plain(url)} sends more than the {size} bytes it was said to have")
                file.write(chunk)
                bar.update(len(chunk))


def _check(answer: requests.Response, url: str, part: Path, have: int, size: int, answers: Mapping[int, str]) -> None:
    """Refuse an answer that is not the file, or not the rest of it."""
    status, headers = answer.status_code, answer.headers
    if status >= 500:
        raise requests.ConnectionError(f"status {status}")
    if status not in (200, 206, 416):
        raise EmoeError(f"{plain(url)}: the server {answers.get(status, f'answered {status}; check the address')}")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise EmoeError(f"{plain(url)} answered with a web page instead of a file: {answers.get(401, 'log in')}")
    if status == 200:
        place, total = 0, headers.get("Content-Length")
    else:
        span = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
        place, total = (int(span[1]) if span and span[1] else None), span and span[2]
    if total not in (None, "*", str(size)):
        raise _wrong(part, f"{plain(url)} has {total} bytes, but was said to have {size}")
    if place not in (0, have) or (status == 206 and place != have):
        raise _wrong(part, f"{plain(url)} does not resume where it is asked to")


def _wrong(part: Path, what: str) -> EmoeError:
    part.unlink(missing_ok=True)
    return EmoeError(f"{what}; nothing was kept, try again or choose another file")


def _verify(part: Path, size: int, sha256: str | None) -> None:
    if part.stat().st_size != size:
        raise _wrong(part, f"{part.stat().st_size} bytes arrived, {size} were announced")
    found = file_sha256(part) if sha256 else None
    if found != sha256:
        raise _wrong(part, f"what arrived is not what was announced (its SHA256 is {found}, not {sha256})")


def _room(part: Path, size: int) -> None:
    missing = size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise EmoeError(f"{part.parent} has {free / 1e9:.1f} GB free, the download needs {missing / 1e9:.1f} GB")
