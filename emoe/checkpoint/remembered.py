"""What the network said last time, for when it is out of reach."""

from __future__ import annotations

import json
import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from emoe.atomic import atomic
from emoe.checkpoint.settings import read_json
from emoe.errors import EmoeError

log = logging.getLogger("emoe")


def cache_folder() -> Path:
    """Where downloads and memories are kept: EMOE_CACHE, or the user's cache folder."""
    if own := os.environ.get("EMOE_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emoe"
    except RuntimeError as error:
        raise EmoeError("there is no home folder to keep downloads in; set EMOE_CACHE to another") from error


def remember(question: str, answer: dict[str, Any]) -> None:
    path = _path(question)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as new:
            new.write_text(json.dumps({"question": question, "answer": answer}))
    except (OSError, EmoeError) as error:
        log.info("not remembered (%s); this will take the network again", error)


def recall(question: str) -> dict[str, Any] | None:
    """The answer that was remembered; None where there is none, or none that can be read."""
    path = _path(question)
    try:
        answer = read_json(path).get("answer") if path.exists() else None
    except (EmoeError, OSError) as error:
        log.info("forgotten: %s", error)
        return None
    return answer if isinstance(answer, dict) else None


def _path(question: str) -> Path:
    return cache_folder() / "memory" / f"{sha256(question.encode()).hexdigest()[:16]}.json"
