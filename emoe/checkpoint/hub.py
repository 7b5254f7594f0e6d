"""A repository on the Hugging Face Hub, as a folder whose files are downloaded when they are asked for."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils.logging import get_logger

from emoe.checkpoint.layout import Folder
from emoe.checkpoint.remembered import recall, remember
from emoe.errors import EmoeError
from emoe.redact import redacted

log = logging.getLogger("emoe")

# The Hub's errors; those of its HTTP client, whose class the library has changed before (today httpx2.HTTPError: no
# connection, time-out, protocol); and the disk's.
FAILURES = (errors.HfHubHTTPError, errors.HfHubHTTPError.__bases__[0], errors.EntryNotFoundError, OSError)
# What the library makes of an answer that is none, a log-in page for example.
ODD = (AttributeError, KeyError, TypeError, ValueError, RecursionError)
# What no cache can mend. UnicodeEncodeError: a token that no header can hold.
REFUSALS = (
    errors.RepositoryNotFoundError,
    errors.RevisionNotFoundError,
    errors.HFValidationError,
    UnicodeEncodeError,
)


def _hide(record: logging.LogRecord) -> bool:
    """The library tells of connections that break, with the signed addresses of its storage."""
    record.msg, record.args = redacted(record.getMessage()), ()
    return True


for _handler in get_logger().handlers:
    _handler.addFilter(_hide)


class HubFolder(Folder):
    """A repository at one commit, or a folder of it."""

    def __init__(self, repo: str, revision: str | None, commit: str, listing: list[str], inner: str = ""):
        self.repo, self.revision, self.commit, self.listing, self.inner = repo, revision, commit, listing, inner

    def __str__(self) -> str:
        return _join(self.repo, self.inner)

    @cached_property
    def _here(self) -> set[str]:
        head = f"{self.inner}/" if self.inner else ""
        return {name[len(head) :] for name in self.listing if name.startswith(head)}

    def has(self, name: str) -> bool:
        return name in self._here or any(there.startswith(f"{name}/") for there in self._here)

    def names(self) -> list[str]:
        return sorted(name for name in self._here if "/" not in name)

    def path(self, name: str) -> Path:
        try:  # by the revision's name, so that the cache knows it when the network is gone
            path = huggingface_hub.hf_hub_download(self.repo, _join(self.inner, name), revision=self.revision)
        except FAILURES as error:
            raise EmoeError(_explain(self.repo, self.revision, error)) from error
        if self.commit not in Path(path).parts:
            raise EmoeError(f"the Hub repository {self.repo} changed while it was being read; run this again")
        return Path(path)

    def folder(self, name: str) -> HubFolder:
        return HubFolder(self.repo, self.revision, self.commit, self.listing, _join(self.inner, name))

    def above(self, part: str) -> HubFolder | None:
        parent, _, name = self.inner.rpartition("/")
        return HubFolder(self.repo, self.revision, self.commit, self.listing, parent) if name == part else None


def _join(*names: str) -> str:
    return "/".join(filter(None, names))


@cache
def repository(repo: str, revision: str | None = None) -> Folder:
    """A Hub repository; where the network is out of reach, as it was when it was last seen.

    Asked once a process: a revision that moves meanwhile, or a new token, takes a new one.
    """
    question = f"{constants.ENDPOINT} {repo}@{revision or 'main'}"
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision)
        told = {"commit": info.sha, "files": [sibling.rfilename for sibling in info.siblings or []]}
        folder = _folder(repo, revision, told)
    except REFUSALS as error:
        raise EmoeError(_explain(repo, revision, error)) from error
    except (*FAILURES, *ODD) as error:
        if _refused(error):
            raise EmoeError(_explain(repo, revision, error)) from error
        return _last_seen(repo, revision, recall(question), error)
    remember(question, told)
    return folder


def _folder(repo: str, revision: str | None, told: Any) -> HubFolder:
    """The repository as a listing describes it; ValueError for what is no listing."""
    match told:
        case {"commit": str(commit), "files": [*files]} if all(isinstance(name, str) for name in files):
            return HubFolder(repo, revision, commit, files)
    raise ValueError("no listing")


def _last_seen(repo: str, revision: str | None, told: dict | None, error: Exception) -> Folder:
    """What the repository held when it was last seen, by us or by another program."""
    with suppress(ValueError):
        folder = _folder(repo, revision, told)
        log.warning("no network: %s as it was when last seen", repo)
        return folder
    try:  # no patterns: whatever another program has left of it
        cached = huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
    except errors.LocalEntryNotFoundError:
        raise EmoeError(_explain(repo, revision, error)) from error
    log.warning("no network: %s as another program has left it in %s", repo, cached)
    return Folder(Path(cached))


def _refused(error: Exception) -> bool:
    """The server answered, and will not answer otherwise."""
    return 400 <= (_status(error) or 0) < 500


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _explain(repo: str, revision: str | None, error: Exception) -> str:
    """One line, where the library writes several."""
    where = f"the Hub repository {repo}" + (f" at revision {revision!r}" if revision else "")
    login = "run `hf auth login` or set HF_TOKEN"
    nor = f"there is no file or folder {repo} here (or, of a weights.toml, beside it), and "
    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return f"{where} is gated: accept its terms on its page, then {login}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} does not exist; look the revision up on the repository's page"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:  # a missing one answers 401 as well
        return f"{nor}{where} does not exist or is private ({status}): check the name; if it is private, {login}"
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is not the name of a Hub repository; write owner/name"
    if isinstance(error, UnicodeEncodeError):
        return f"{where} cannot be asked for: the token holds characters that no token has; {login}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{nor}{where} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it; unset it for the first run"
    if status == 403:
        return f"{where} refused the download (403): {login}, with a token that may read it"
    if isinstance(error, errors.EntryNotFoundError) and status:
        return f"{where} lacks a file that its own listing names; try again, or name another revision"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{where} is not whole in the cache, and the network is out of reach; try again later"
    if status == 404:
        return f"{nor}{where} is not known (404): check the name, and HF_ENDPOINT if it is set"
    if not status and isinstance(error, OSError) and error.errno:
        return f"cannot store {where} in the Hub's cache: {os.strerror(error.errno)}"
    reason = f"answered {status}" if status else f"cannot be reached or understood ({type(error).__name__})"
    return f"{nor}{where} {reason}; try again later, or download it and name its path"
