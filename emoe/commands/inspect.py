"""emoe inspect: what a file is, or a mixture."""

from __future__ import annotations

import argparse
import os
from typing import Any

from emoe.commands.options import add_machine, be_verbose, route_text
from emoe.errors import EmoeError, many
from emoe.shipped import SHIPPED, meant
from emoe.terminal import as_json, show, visible

DESCRIPTION = """\
Says what a checkpoint is, what it holds and lacks, and whether emoe can use it. Sources are those of weights.toml;
what is not here yet is downloaded, and every tensor is read. Of a weights.toml: what mixture it makes, loaded as for a
score, how far apart its experts' weights are, and how the gate tells their own descriptors apart.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("inspect", help="what a file is, or a mixture", description=DESCRIPTION)
    parser.add_argument(
        "source", metavar="SOURCE", help="a file, a folder, owner/name on the Hub, civitai:VERSION; or a weights.toml"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object instead of text")
    add_machine(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    if not options.source:
        raise EmoeError("the source is empty; name a file, a folder, owner/name or civitai:VERSION")

    from emoe import describing  # these take seconds
    from emoe.checkpoint import describing as describing_files
    from emoe.device import choose_device

    if options.source.lower().endswith(".toml") or options.source in SHIPPED:
        found = describing.describe(options.source, options.device, options.dtype)
    elif "/" not in options.source and (name := meant(options.source)) and not os.path.lexists(options.source):
        raise EmoeError(f"there is no {options.source}; did you mean {name}?")
    else:
        choose_device(options.device, options.dtype)  # a file is read on the CPU, and yet a mistake is one
        found = describing_files.describe(options.source)
    if options.json:
        show(as_json(found))
    elif found["kind"]:
        for line in _lines(found):
            show(visible(line))
    if found["refused"]:
        raise EmoeError(found["refused"])
    return 0


Rows = list[tuple[str, str]]


def _lines(found: dict[str, Any]) -> list[str]:
    if "experts" in found:
        rows = _of_mixture(found)
    else:
        rows = _of_lora(found) if "lora" in found else _of_checkpoint(found)
    for file in found.get("files", ()):
        rows.append(("file", f"{file['path']} ({file['container']}, {file['bytes'] / 1e6:,.1f} MB)"))
        rows.append(("sha256", file["sha256"]))
    return [f"{found['source']} is {found['kind']}", *(f"  {key:<13} {value}" for key, value in rows)]


def _of_mixture(found: dict[str, Any]) -> Rows:
    experts = found["experts"]
    rows = [
        ("base", found["base"]),
        ("UNet", f"{found['parameters'] / 1e6:,.1f} M parameters, {found['of_experts'] / 1e6:,.1f} M of experts"),
        ("layers", f"{found['layers']}; paths part at {found['split']}"),
        ("gate", f"{found['gate']}, {found['top']} of {len(experts)} experts"),
        ("predicts", f"{found['prediction']}; {found['size']} pixels"),
        ("mixture", f"{found['mixture']}, in {found['dtype']}"),
    ]
    for number, expert in enumerate(experts, start=1):
        changed = [f"{lora['source']} ({lora['scale']:g})" for lora in expert["loras"]]
        others = [f"{j}: {much:.2g}" for j, much in enumerate(expert["apart"], start=1) if j != number]
        name = f"{expert['name']}: " if expert["name"] else ""
        rows.append((f"expert {number}", name + " + ".join([expert["source"], *changed])))
        rows.append(("  apart from", ", ".join(others)))
        if "own_route" in expert:
            rows.append(("  own route", route_text(expert["own_route"])))
    return rows


def _of_lora(found: dict[str, Any]) -> Rows:
    lora = found["lora"]
    return [
        ("usable", f"no: {found['refused']}" if found["refused"] else "under an expert's loras"),
        ("UNet", f"{many(lora['layers'], 'layer')} changed, {lora['mixed']} of them where experts are mixed"),
        ("ranks", ", ".join(map(str, lora["ranks"])) or "none"),
        ("left out", f"text encoder (tensors: {lora['text_encoder_tensors']})"),
    ]


def _of_checkpoint(found: dict[str, Any]) -> Rows:
    rows = [("usable", _usable(found))]
    for part, told in found["parts"].items():
        rows.append((part.replace("_", " "), _part(told)))
    if found["unet_names"]:
        rows += [("names", found["unet_names"]), ("predicts", found["prediction"])]
    if found["schedule"]:
        rows.append(("noise", f"{', '.join(found['schedule'])}; SD1.5's schedule is used here"))
    if mixture := found["segmoe"]:
        gates = "with gates" if mixture["gates"] else "without gates"
        rows.append(
            ("mixture", f"{mixture['experts']} experts, layers {mixture['layers']}, top {mixture['top']}, {gates}")
        )
        for number, descriptors in enumerate(mixture["descriptors"], start=1):
            rows.append((f"expert {number}", " / ".join(text or "no descriptor" for text in descriptors)))
    if found["left_out"]:
        rows.append(("left out", ", ".join(f"{what} ({count})" for what, count in found["left_out"].items())))
    if found["unknown"]:
        rows.append(("unknown", f"{', '.join(found['unknown'][:5])} (tensors: {len(found['unknown'])})"))
    return rows


def _usable(found: dict[str, Any]) -> str:
    text = found["parts"]["text_encoder"]
    if found["refused"]:
        return f"no: {found['refused']}"
    if found["segmoe"]:
        return "under segmoe"
    if found["parts"]["unet"]["expert_only"]:
        return "as an expert; as base not, for it comes without the config.json that tells its heads and groups"
    if not text:
        return "as an expert; as base with another text_encoder"
    if text["problem"]:
        return f"as an expert; as base with another text_encoder: {text['problem']}"
    vae = found["parts"]["vae"]
    return f"for scores; for images with another vae: {vae['problem']}" if vae and vae["problem"] else "yes"


def _part(told: dict[str, Any] | None) -> str:
    if told is None:
        return "not there"
    dtypes = ", ".join(told["dtypes"])
    return f"{told['parameters'] / 1e6:,.1f} M parameters in {told['tensors']} tensors, {dtypes}"
