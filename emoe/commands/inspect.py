"""emoe inspect: what a file is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from emoe.errors import EmoeError

DESCRIPTION = (
    "Says what a checkpoint is, what it holds and lacks, and whether emoe can use it; sources as in weights.toml."
)


def add_to(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="what a file is", description=DESCRIPTION)
    parser.add_argument("source", metavar="SOURCE", help="a file, a folder, owner/name on the Hub, civitai:VERSION")
    parser.add_argument("--json", action="store_true", help="a JSON object instead of text")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from emoe.checkpoint.report import report

    found = report(options.source)
    print(json.dumps(found, ensure_ascii=False, indent=2) if options.json else _text(found))
    if found["refused"]:
        raise EmoeError(f"{options.source} is {found['kind']}: {found['refused']}")
    return 0


def _text(found: dict[str, Any]) -> str:
    lines = [f"{found['source']} is {found['kind']}"]
    rows = [("usable", "no: " + found["refused"] if found["refused"] else "yes")]
    if found["unet_naming"]:
        rows.append(("names", f"{found['unet_naming']}'s"))
    for part, told in found["parts"].items():
        name = part.replace("_", " ")
        if told is None:
            rows.append((name, "not there"))
            continue
        dtypes = ", ".join(told["dtypes"])
        rows.append((name, f"{told['parameters'] / 1e6:,.1f} M parameters in {told['tensors']} tensors, {dtypes}"))
        rows += [("", problem) for problem in told["problems"][:5]]
    rows.append(("predicts", found["prediction"]))
    if found["dropped"]:
        rows.append(("left out", ", ".join(f"{what} ({count} tensors)" for what, count in found["dropped"].items())))
    if found["unknown"]:
        rows.append(("unknown", f"{len(found['unknown'])} tensors: {', '.join(found['unknown'][:3])}"))
    for file in found["files"]:
        rows.append(("file", f"{file['path']} ({file['container']}, {file['bytes'] / 1e6:,.1f} MB)"))
        rows.append(("sha256", file["sha256"]))
    return "\n".join(lines + [f"  {key:<13} {value}" for key, value in rows])
