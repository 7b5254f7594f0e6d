"""emoe explain: which words of a prompt make it uncertain, and where in the picture."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from emoe.commands.options import add_machine, add_reading, add_weights, be_verbose, reading_of
from emoe.prompts import check_text
from emoe.terminal import show, visible

if TYPE_CHECKING:
    from emoe.explaining import Explanation
    from emoe.pipeline import EMoE

DESCRIPTION = """\
Leaves out each word of a prompt, and each pair of neighbours, and shows what that does to the uncertainty, beside what
the starting noise alone does to it. Also the route with the similarities behind it, and where the paths disagree.
"""
SHADES = " .:-=+*#%@"  # little to much


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("explain", help="which words make a prompt uncertain", description=DESCRIPTION)
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument("--negative", default="", metavar="TEXT", help="negative prompt")
    add_weights(parser)
    add_reading(parser)
    parser.set_defaults(seeds=4)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object instead of text")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    for text in (options.prompt, options.negative):
        check_text(text)

    from emoe.explaining import check_seeds, explain  # torch takes seconds
    from emoe.pipeline import EMoE

    reading = reading_of(options)
    check_seeds(reading)
    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    explanation = explain(model, options.prompt, options.negative, reading)
    if options.json:
        show(json.dumps(explanation.record(), ensure_ascii=False))
        return 0
    for line in (*_head(explanation, options.seeds), *_words(explanation), *_route(explanation, model)):
        show(visible(line))
    return 0


def _head(found: Explanation, seeds: int) -> list[str]:
    lines = [
        f"{found.uncertainty:.4g} uncertainty, give or take {found.spread:.2g} from noise to noise ({seeds} seeds)",
        f"  epistemic {found.eu:.4g}, aleatoric {found.aleatoric:.4g} (eu)",
        "  where the paths disagree, least to most:",
    ]
    low, high = found.map.min(), found.map.max()
    levels = ((found.map - low) / (high - low).clamp(min=1e-30) * (len(SHADES) - 1)).round().int().tolist()
    return lines + [f"    |{''.join(2 * SHADES[level] for level in row)}|" for row in levels]


def _words(found: Explanation) -> list[str]:
    if not found.changes:
        return ["there is one word; nothing can be left out"]
    lines = ["they add  +/- 95 %   without  word  left out"]
    for change in sorted(found.changes, key=lambda change: -change.raises):
        remark = "" if change.clear else "  (within the noise)"
        without = found.uncertainty - change.raises
        lines.append(
            f"{change.raises:>+8.3g}  {change.margin:>8.2g}  {without:>8.3g}  {change.at:>4}  {change.words}{remark}"
        )
    return lines


def _route(found: Explanation, model: EMoE) -> list[str]:
    if found.weights is None:
        return ["the route differs from layer to layer (hidden gate)"]
    lines = ["  weight  similarity  expert"]
    for i, weight in enumerate(found.weights):
        likeness = "" if found.similarities is None else f"{found.similarities[i]:.4f}"
        name = (model.experts[i].name if i < len(model.experts) else None) or f"expert {i + 1}"
        lines.append(f"{weight:>8.3f}  {likeness:>10}  {name}")
    return lines
