"""A model version on Civitai: asked about first, downloaded only if it can be used, verified, kept.

Settings: CIVITAI_TOKEN (some models want an account), EMOE_CACHE (where files are kept; default the user's cache
folder), CIVITAI_ENDPOINT (another server, for tests and mirrors).
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests

from emoe.checkpoint.download import USER_AGENT, download
from emoe.checkpoint.memory import cache_folder, recall, remember
from emoe.checkpoint.source import Civitai
from emoe.errors import EmoeError

log = logging.getLogger("emoe")

BASE_MODELS = ("SD 1.4", "SD 1.5")
DISTILLED = ("SD 1.5 LCM", "SD 1.5 Hyper")
HOSTS = ["https://civitai.com", "https://civitai.red"]
FORMATS = {"SafeTensor": ".safetensors", "PickleTensor": ".ckpt"}  # in the order of preference
ANSWERS = {
    400: "does not understand the request: check the address",
    401: "wants an account: set CIVITAI_TOKEN to an API key from your account's settings",
    403: "does not give it to this account (early access, blocked, or a wrong CIVITAI_TOKEN): look at its page",
    404: "does not know it: check the number (the version's, not the model's)",
    410: "has archived it: choose another version",
    429: "has had too many requests: wait, or set CIVITAI_TOKEN",
    451: "does not serve it in this region: download it elsewhere and name its path",
}


@dataclass(frozen=True)
class CivitaiFile:
    """One file of a version, as its metadata describes it."""

    version: int
    id: int
    name: str  # for messages only: names are neither unique nor safe
    format: str
    size: int  # bytes
    sha256: str | None  # None while Civitai's scan is pending


def fetch(source: Civitai) -> Path:
    """The version's file on this disk, downloaded on first use."""
    host, file = look_up(source)
    folder = cache_folder() / "civitai" / str(file.version)
    stem = file.sha256 or f"unverified-{file.id}"
    return download(
        f"{host}/api/download/models/{file.version}?fileId={file.id}",
        folder / (stem + FORMATS[file.format]),
        size=file.size,
        sha256=file.sha256,
        token=os.environ.get("CIVITAI_TOKEN"),
        answers=ANSWERS,
    )


@cache
def look_up(source: Civitai) -> tuple[str, CivitaiFile]:
    """The host that has the version, and its file; EmoeError if it is of a kind that does not mix.

    Where Civitai is out of reach, what it said last time, if the file is here. Asked once a process.
    """
    question = f"{os.environ.get('CIVITAI_ENDPOINT')} {source!r}"
    try:
        host, version = _metadata(source)
    except requests.RequestException as error:
        told = recall(question)
        if told is None:
            raise EmoeError(f"Civitai cannot be reached ({type(error).__name__}); try again later") from error
        log.warning("no network: Civitai's %s as it was when last seen", source)
        return told["host"], CivitaiFile(**told["file"])
    try:
        _check(version)
        file = _choose(version, source.wanted)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise EmoeError(f"Civitai's answer about {source} is not understood ({error!r}); try again later") from error
    if file.sha256 is None:
        log.warning("Civitai knows no hash of %s yet, so only its size can be verified", file.name)
    remember(question, {"host": host, "file": asdict(file)})
    return host, file


def _metadata(source: Civitai) -> tuple[str, dict[str, Any]]:
    """The host that knows the version (mature models have one of their own), and what it says."""
    chosen = os.environ.get("CIVITAI_ENDPOINT")
    hosts = [chosen.rstrip("/")] if chosen else HOSTS
    for host in hosts:
        number = source.version
        if number is None:
            versions = _get(f"{host}/api/v1/models/{source.model}", last=host == hosts[-1]).get("modelVersions")
            newest = versions[0] if isinstance(versions, list) and versions else {}
            number = newest.get("id") if isinstance(newest, dict) else None
        found = number and _get(f"{host}/api/v1/model-versions/{number}", last=host == hosts[-1])
        if found:
            return host, found
    raise EmoeError(f"Civitai has no version of model {source.model}: check its number in the page's address")


def _get(url: str, last: bool) -> dict[str, Any]:
    """A JSON answer; {} where this host does not know it and another may."""
    token = os.environ.get("CIVITAI_TOKEN")
    headers = {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {token}"} if token else {})
    answer = requests.get(url, headers=headers, timeout=30)
    if answer.status_code == 404 and not last:
        return {}
    if answer.status_code != 200:
        told = ANSWERS.get(answer.status_code, f"answered {answer.status_code}; try again later")
        raise EmoeError(f"Civitai {told} ({url})")
    try:
        value = answer.json()
    except requests.JSONDecodeError as error:
        raise EmoeError(f"Civitai answered something else than JSON ({url}); try again later") from error
    return value if isinstance(value, dict) else {}


def _check(version: dict[str, Any]) -> None:
    """Refuse what cannot be mixed before gigabytes are spent on it."""
    model = version.get("model") or {}
    name = f"Civitai version {version.get('id')} ({model.get('name', 'unnamed')})"
    kind, base, base_type = model.get("type"), version.get("baseModel"), version.get("baseModelType")
    if kind != "Checkpoint":
        raise EmoeError(f"{name} is of type {kind}, not a checkpoint; choose a checkpoint")
    if base in DISTILLED:
        log.warning("%s is made for few steps (%s); its uncertainty does not compare with ordinary ones", name, base)
    elif base not in BASE_MODELS:
        raise EmoeError(f"{name} is made from {base}; only {' and '.join(BASE_MODELS)} checkpoints mix")
    if base_type not in (None, "Standard"):
        raise EmoeError(f"{name} is of the kind {base_type}; choose the model's ordinary version")


def _choose(version: dict[str, Any], wanted: tuple[tuple[str, str], ...]) -> CivitaiFile:
    """The version's safetensors checkpoint, pruned and fp16 before full and fp32, unless a link asked otherwise."""
    files = [f for f in version.get("files") or [] if f.get("type") in ("Model", "Pruned Model")]
    files = [f for f in files if (f.get("metadata") or {}).get("format") in FORMATS]
    fitting = [f for f in files if all(_property(f, key) in (None, value) for key, value in wanted)]
    if not fitting:
        asked = " with " + ", ".join(f"{k}={v}" for k, v in wanted) if wanted else ""
        offers = "; ".join(_describe(f) for f in files) or "none"
        raise EmoeError(f"Civitai version {version.get('id')} has no checkpoint file{asked}; it offers: {offers}")

    def preference(file: dict[str, Any]) -> tuple[bool, ...]:
        meta = file["metadata"]
        return meta["format"] == "SafeTensor", meta.get("size") == "pruned", meta.get("fp") == "fp16"

    best = max(fitting, key=preference)
    told = (best.get("hashes") or {}).get("SHA256")
    if told is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", str(told)):
        raise ValueError(f"the SHA256 {told!r} is none")
    size = round(float(best["sizeKB"]) * 1024)
    if size <= 0:
        raise ValueError(f"the size {size} is none")
    return CivitaiFile(
        version=int(version["id"]),
        id=int(best["id"]),
        name=str(best.get("name")),
        format=best["metadata"]["format"],
        size=size,
        sha256=told.lower() if told else None,
    )


def _property(file: dict[str, Any], key: str) -> str | None:
    value = {"type": file.get("type"), "fileId": file.get("id")}.get(key, (file.get("metadata") or {}).get(key))
    return None if value is None else str(value)


def _describe(file: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key in ("format", "size", "fp") if (value := _property(file, key)))
