"""Civitai and its storage, played by two local servers: one that is asked, one that it redirects to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from server import Answer, Request, Site, ranged

from emoe.checkpoint import civitai
from emoe.checkpoint.source import Civitai
from emoe.errors import EmoeError

DATA = bytes(range(256)) * 4000  # a megabyte
SOURCE = Civitai(128713)


def version(data: bytes = DATA, **changes: Any) -> dict[str, Any]:
    """A version's metadata, as the site gives it."""
    file = {
        "id": 7,
        "name": "../../red bus; rm -rf.safetensors",
        "type": "Model",
        "sizeKB": len(data) / 1024,
        "metadata": {"format": "SafeTensor", "size": "pruned", "fp": "fp16"},
        "hashes": {"SHA256": hashlib.sha256(data).hexdigest().upper()},
    }
    return {
        "id": 128713,
        "baseModel": "SD 1.5",
        "baseModelType": "Standard",
        "model": {"name": "Red Bus", "type": "Checkpoint"},
        "files": [file | changes.pop("file", {})],
    } | changes


@dataclass
class World:
    """What the two servers do."""

    metadata: dict[str, Any] = field(default_factory=version)
    data: bytes = DATA
    drops: list[int] = field(default_factory=list)  # bytes after which the storage hangs up, request by request
    resumes: bool = True
    site: Site | None = None
    storage: Site | None = None

    def ask(self, request: Request) -> Answer:
        if request.path == "/api/v1/models/4384":
            return Answer.json({"modelVersions": [{"id": 128713}, {"id": 1}]})
        if request.path == "/api/v1/model-versions/128713":
            return Answer.json(self.metadata)
        if request.path == "/api/download/models/128713":
            return Answer(307, headers={"Location": f"{self.storage.url}/file?signature=SECRET"})
        return Answer.json({"error": "not found"}, 404)

    def store(self, request: Request) -> Answer:
        if "authorization" in request.headers:
            return Answer(400, b"only one auth mechanism allowed")
        if not self.resumes:
            request.headers.pop("range", None)
        answer = ranged(self.data, request)
        answer.cut = self.drops.pop(0) if self.drops else None
        return answer


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "civitai" / "128713"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def fails(source: Civitai = SOURCE) -> str:
    with pytest.raises(EmoeError) as caught:
        civitai.fetch(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "SECRET" not in message
    assert "TOKEN" not in message.replace("CIVITAI_TOKEN", "")
    return message
