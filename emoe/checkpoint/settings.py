"""JSON files that come with a checkpoint: written by strangers, so read with care."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoe.errors import EmoeError, shown

LIMIT = 16 * 2**20  # bytes; a config or an index is far smaller


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; EmoeError if it is none."""
    try:
        if path.stat().st_size > LIMIT:
            raise EmoeError(f"{path} is too long for what it is; download it again")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise EmoeError(f"{path} is not a JSON object; download it again")
    return value


def positive(config: Mapping[str, Any], key: str, default: int, where: str) -> int:
    """A positive whole number; the default where the key is missing or null."""
    value = default if config.get(key) is None else config[key]
    if type(value) is not int or value < 1:
        raise EmoeError(f"{where}: its config.json sets {key} to {shown(value)}; it must be a positive whole number")
    return value
