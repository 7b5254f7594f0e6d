"""A model version on Civitai: asked about first, downloaded only if it can be used, verified, kept.

Settings: CIVITAI_TOKEN (some models want an account), EMOE_CACHE (where files are kept; default the user's cache
folder), CIVITAI_ENDPOINT (another server, for tests and mirrors).
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests

from emoe.checkpoint.download import CHUNK, USER_AGENT, download
from emoe.checkpoint.remembered import cache_folder, recall, remember
from emoe.checkpoint.settings import LIMIT
from emoe.checkpoint.source import Civitai, plain
from emoe.errors import EmoeError

log = logging.getLogger("emoe")

KINDS = {"Checkpoint": "checkpoint", "LORA": "LoRA", "LoCon": "LoRA"}  # Civitai's types -> what they are here
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


def fetch(source: Civitai, kind: str | None = "checkpoint") -> Path:
    """The version's file on this disk, downloaded on first use. kind: "checkpoint", "LoRA", None: either."""
    host, file = look_up(source, kind)
    folder = cache_folder() / "civitai" / str(file.version)
    stem = file.sha256 or f"unverified-{file.id}"
    return download(
        f"{host}/api/download/models/{file.version}?fileId={file.id}",
        folder / (stem + FORMATS[file.format]),
        size=file.size,
        sha256=file.sha256,
        token=_token(),
        answers=ANSWERS,
    )


@cache
def look_up(source: Civitai, kind: str | None = "checkpoint") -> tuple[str, CivitaiFile]:
    """The host that has the version, and its file; EmoeError if it is not of this kind, or does not mix.

    Where Civitai is out of reach, what it said last time, if the file is here. Asked once a process.
    """
    question = f"{os.environ.get('CIVITAI_ENDPOINT')} {source!r}"
    try:
        told = _metadata(source)
    except requests.RequestException as error:
        told = recall(question)
        if told is None:
            raise EmoeError(f"Civitai cannot be reached ({type(error).__name__}); try again later") from error
        log.warning("no network: Civitai's %s as it was when last seen", source)
    try:
        host, version = told["host"], told["version"]
        _check(version, kind)
        file = _choose(version, source.wanted)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EmoeError(f"Civitai's answer about {source} is not understood ({error!r}); try again later") from error
    if file.sha256 is None:
        log.warning("Civitai knows no hash of %s yet, so only its size can be verified", file.name)
    remember(question, told)
    return host, file


def _metadata(source: Civitai) -> dict[str, Any]:
    """The host that knows the version (mature models have one of their own), and what it says of it."""
    chosen = os.environ.get("CIVITAI_ENDPOINT")
    hosts = [chosen.rstrip("/")] if chosen else HOSTS
    for host in hosts:
        number, last = source.version, host == hosts[-1]
        if number is None:
            match _get(f"{host}/api/v1/models/{source.model}", last):
                case {"modelVersions": [{"id": int(newest)}, *_]}:
                    number = newest
        found = _get(f"{host}/api/v1/model-versions/{number}", last) if number else None
        if found is not None:
            return {"host": host, "version": found}
    raise EmoeError(f"Civitai has no version of model {source.model}: check its number in the page's address")


def _get(url: str, last: bool) -> dict[str, Any] | None:
    """A JSON object; None where this host does not know it and another may."""
    token, body = _token(), b""
    headers = {"User-Agent": USER_AGENT} | ({"Authorization": f"Bearer {token}"} if token else {})
    with requests.get(url, headers=headers, timeout=30, stream=True) as answer:
        if answer.status_code == 404 and not last:
            return None
        if answer.status_code != 200:
            told = ANSWERS.get(answer.status_code, f"answered {answer.status_code}; try again later")
            raise EmoeError(f"Civitai {told} ({plain(url)})")
        for chunk in answer.iter_content(CHUNK):
            body += chunk
            if len(body) > LIMIT:
                raise EmoeError(f"Civitai's answer is too long for what it is ({plain(url)}); try again later")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"Civitai answered something else than JSON ({plain(url)}); try again later") from error
    if not isinstance(value, dict):
        raise EmoeError(f"Civitai answered something else than a JSON object ({plain(url)}); try again later")
    return value


def _token() -> str | None:
    """The user's API key; EmoeError for what no header can hold."""
    token = os.environ.get("CIVITAI_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):
        raise EmoeError("CIVITAI_TOKEN holds characters that no API key has; copy it from your account again")
    return token or None


def _check(version: dict[str, Any], wanted: str | None) -> None:
    """Refuse what cannot be mixed before gigabytes are spent on it."""
    model = version.get("model") or {}
    name = f"Civitai version {version.get('id')} ({model.get('name', 'unnamed')})"
    told, base, base_type = model.get("type"), version.get("baseModel"), version.get("baseModelType")
    kind = KINDS.get(told)
    if kind is None or wanted not in (None, kind):
        remedy = "name it under an expert's loras" if kind == "LoRA" else f"choose a {wanted or 'checkpoint'}"
        raise EmoeError(f"{name} is of type {told}, not a {wanted or 'checkpoint'}; {remedy}")
    if base in DISTILLED:
        log.warning("%s is made for few steps (%s); its uncertainty does not compare with ordinary ones", name, base)
    elif base not in BASE_MODELS:
        raise EmoeError(f"{name} is made from {base}; only {' and '.join(BASE_MODELS)} mix")
    if base_type not in (None, "Standard"):
        raise EmoeError(f"{name} is of the kind {base_type}; choose the model's ordinary version")


def _choose(version: dict[str, Any], wanted: tuple[tuple[str, str], ...]) -> CivitaiFile:
    """The version's safetensors file, pruned and fp16 before full and fp32, unless a link asked otherwise."""
    files = [f for f in version.get("files") or [] if f.get("type") in ("Model", "Pruned Model")]
    files = [f for f in files if (f.get("metadata") or {}).get("format") in FORMATS]
    fitting = [f for f in files if all(_property(f, key) in (None, value) for key, value in wanted)]
    if not fitting:
        asked = " with " + ", ".join(f"{k}={v}" for k, v in wanted) if wanted else ""
        offers = "; ".join(_describe(f) for f in files) or "none"
        raise EmoeError(f"Civitai version {version.get('id')} has no weights file{asked}; it offers: {offers}")

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
