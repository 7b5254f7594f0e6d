"""emoe explain: which words of a prompt make it uncertain, and where in the picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from emoe.commands.options import add_machine, add_reading, add_weights, be_verbose, check_no_file, reading_of
from emoe.config import read_weights
from emoe.prompts import check_text
from emoe.terminal import as_json, show, visible

if TYPE_CHECKING:
    from emoe.explaining import Explanation
    from emoe.pipeline import EMoE

DESCRIPTION = """\
Leaves out each word of a prompt, and each pair of neighbours, and shows how many times as uncertain they make it,
beside what the starting noise alone does. Also where the paths disagree, and whose, and the route behind it.
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
    check_no_file(options.prompt, "emoe score has --prompts for that; explain takes one prompt")
    for text in (options.prompt, options.negative):
        check_text(text)
    weights = read_weights(options.weights)

    # torch takes seconds; the mistakes above need not wait
    from emoe.explaining import check_seeds, check_words, explain
    from emoe.pipeline import EMoE

    reading = reading_of(options)
    check_words(options.prompt)
    check_seeds(reading)
    model = EMoE.from_weights(weights, device=options.device, dtype=options.dtype)
    explanation = explain(model, options.prompt, options.negative, reading)
    if options.json:
        show(as_json(explanation.record()))
        return 0
    for line in (*_head(explanation, options.seeds), *_words(explanation), *_experts(explanation, model)):
        show(visible(line))
    return 0


def _head(found: Explanation, seeds: int) -> list[str]:
    lines = [
        f"{found.uncertainty:.4g} uncertainty; standard deviation over {seeds} noises {found.spread:.2g}",
        f"  eu {found.eu:.4g}; what the noise alone moves, in the same unit: {found.aleatoric:.4g}",
        "  where the paths disagree, least to most:",
    ]
    low, high = found.map.min(), found.map.max()
    levels = ((found.map - low) / (high - low).clamp(min=1e-30) * (len(SHADES) - 1)).round().int().tolist()
    return lines + [f"    |{''.join(2 * SHADES[level] for level in row)}|" for row in levels]


def _words(found: Explanation) -> list[str]:
    if not found.changes:
        return ["there is one word; nothing can be left out"]
    lines = ["with these words it is so many times as uncertain as without:"]
    lines.append("   times  95 % over noises  word")
    for change in sorted(found.changes, key=lambda change: -change.times):
        remark = "" if change.clear else "  (within the noise)"
        interval = f"{change.low:.3g} to {change.high:.3g}"
        lines.append(f"{change.times:>8.3g}  {interval:>16}  {change.at:>4}  {change.words}{remark}")
    return lines


def _experts(found: Explanation, model: EMoE) -> list[str]:
    """How much of eu is each one's path, and how the gate has chosen."""
    lines = [" of eu  weight  similarity  expert"]
    for i, share in enumerate(found.shares):
        weight = "by layer" if found.weights is None else f"{found.weights[i]:.3f}"
        likeness = "" if found.similarities is None else f"{found.similarities[i]:.4f}"
        name = (model.experts[i].name if i < len(model.experts) else None) or f"expert {i + 1}"
        lines.append(f"{share:>5.0%}  {weight:>7}  {likeness:>10}  {name}")
    return lines
