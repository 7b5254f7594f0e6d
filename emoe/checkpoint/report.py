"""What `emoe inspect` tells of a source."""

from __future__ import annotations

from typing import Any

from emoe.checkpoint.checkpoint import examine
from emoe.checkpoint.contents import PARTS
from emoe.checkpoint.download import file_sha256
from emoe.checkpoint.load_unet import build, shapes_of
from emoe.errors import EmoeError


def report(source: str) -> dict[str, Any]:
    """A JSON-ready account of a source, also of one that cannot be used; "refused" then says why."""
    found = examine(source)
    refused = found.kind.remedy
    parts: dict[str, Any] = {}
    for name in PARTS:
        part = found.parts.get(name)
        parts[name] = part and {
            "tensors": len(part.places),
            "parameters": sum(part.dtypes.values()),
            "dtypes": list(part.dtypes),
            "problems": [],
        }
    if "unet" in found.parts and not refused:
        try:
            problems = found.parts["unet"].problems(shapes_of(build(found.parts["unet"])))
        except EmoeError as error:  # no UNet can be made of its config.json
            problems = [str(error)]
        parts["unet"]["problems"] = problems
        if problems:
            refused = f"its UNet is not like SD1.5's: it {problems[0]}; use another file"
    return {
        "source": source,
        "kind": found.kind.name,
        "refused": refused,
        "unet_naming": found.naming if "unet" in found.parts else None,
        "prediction": found.prediction,
        "parts": parts,
        "dropped": dict(found.dropped),
        "unknown": found.unknown,
        "files": [
            {
                "path": str(file.path),
                "container": file.container,
                "bytes": file.path.stat().st_size,
                "sha256": file_sha256(file.path),
            }
            for file in found.files
        ],
    }
