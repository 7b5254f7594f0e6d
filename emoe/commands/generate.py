"""emoe generate: images, and how uncertain the mixture was about them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from emoe.choices import MODES, SCHEDULERS
from emoe.commands.options import (
    add_machine,
    add_number,
    add_prompts,
    add_reference,
    add_weights,
    be_verbose,
    noises_text,
    percentile_text,
    reference_of,
    rows_of,
    show_json,
)
from emoe.config import read_weights
from emoe.errors import EmoeError, many
from emoe.exclusive import exclusive
from emoe.progress import Lines, progress
from emoe.records import Record, RecordFile, texts_of
from emoe.terminal import say, show, visible

if TYPE_CHECKING:
    from tqdm import tqdm

    from emoe.reference import Reference
    from emoe.scores import Scores

DESCRIPTION = """\
Draws prompts, and says how uncertain the mixture was: one image per expert's path (mode emoe), or one (fast, mixture).
Prompts above --max-uncertainty are halted before their first step and get no image. Exit code 3: some were halted.
"""
HALTED = 3  # exit code


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("generate", help="images with their uncertainty", description=DESCRIPTION)
    add_prompts(parser, usual=4)
    add_weights(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="where images and generations.jsonl go")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="emoe",
        help="emoe (the default): an image per path; fast: one, and the uncertainty; mixture: one alone",
    )
    parser.add_argument("--max-uncertainty", type=float, metavar="U", help="no image above this uncertainty")
    add_reference(parser)
    parser.add_argument("--max-percentile", type=float, metavar="P", help="the same, as a percentage of the reference")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="ddim", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=7.5, help="1 is none (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=1, help="average the number over so many noises (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image side (default: the checkpoint's own)")
    add_number(parser)
    parser.add_argument("--maps", action="store_true", help="also draw where the paths disagree over the image")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    add_machine(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    rows, weights = rows_of(options), read_weights(options.weights)

    from emoe.device import choose_device  # torch takes seconds; the mistakes above need not wait
    from emoe.gallery import RECORDS, check_sheets, draw_sheets, gallery, intact, save
    from emoe.generations import Recipe
    from emoe.pipeline import DRAWN, EMoE, check_batch_size

    reference = reference_of(options)
    told = {field.name: getattr(options, field.name) for field in fields(Recipe)}
    recipe = Recipe(**told | _limit(options, reference))
    if reference:
        if recipe.mode == "mixture":
            raise EmoeError("mode 'mixture' has no uncertainty to compare; choose 'fast' or 'emoe'")
        reference.check(recipe.reading)
    if options.maps and recipe.mode == "mixture":
        raise EmoeError("mode 'mixture' has no map to draw; choose 'fast' or 'emoe'")
    check_batch_size(options.batch_size)
    machine = choose_device(options.device, options.dtype)
    with gallery(options.out) as folder, exclusive(folder / RECORDS):
        if recipe.mode == "emoe":
            check_sheets(folder)
        file = RecordFile(folder / RECORDS, rows)
        told = asdict(recipe) | {"maps": options.maps, "reference": reference.mark if reference else None}
        file.check({key: value for key, value in told.items() if key != "size" or value})
        model = EMoE.from_weights(weights, device=machine[0], dtype=machine[1])
        recipe = model.at_own_size(recipe)
        file.check({"size": recipe.size, "mixture": model.mixture, "vae": model.vae_mark})
        file.keep(intact(folder, file.records))
        if reference:
            reference.check(recipe.reading, model.mixture)

        todo = rows[file.go_on(model.batch_size(options.batch_size, DRAWN)) :]
        records = list(file.records)
        write = show_json if options.json else _Table().write
        with progress(len(rows) * recipe.steps, "step", len(records) * recipe.steps) as bar:
            watch = _on_bar(bar)
            for generation in model.stream_images(*texts_of(todo), recipe, options.batch_size, watch):
                record = rows[len(records)] | save(folder, len(records) + 1, generation, options.maps)
                record |= reference.told(record["uncertainty"]) if reference else {}
                file.write([record])
                write([record])
                records.append(record)
                bar.n = len(records) * recipe.steps
                bar.refresh()
        if recipe.mode == "emoe":
            names = [expert.name or f"expert {i}" for i, expert in enumerate(model.experts, start=1)]
            draw_sheets(folder, records, names)
    halted = sum(record["halted"] for record in records)
    say(f"{many(len(records) - halted, 'prompt')} drawn and {halted} halted, in {folder}")
    return HALTED if halted else 0


def _limit(options: argparse.Namespace, reference: Reference | None) -> dict[str, float]:
    """--max-percentile as an uncertainty."""
    if options.max_percentile is None:
        return {}
    if reference is None:
        raise EmoeError("--max-percentile is a percentage of a reference; name one with --reference")
    if options.max_uncertainty is not None:
        raise EmoeError("--max-percentile and --max-uncertainty are two limits; give one")
    return {"max_uncertainty": reference.limit(options.max_percentile)}


def _on_bar(bar: tqdm | Lines) -> Callable[[Scores | None], None]:
    def watch(scores: Scores | None) -> None:
        if scores is not None:
            bar.set_postfix(uncertainty=f"{scores.uncertainty.max():.4g}", refresh=False)
        bar.update()

    return watch


class _Table:
    """Aligned columns, line by line as the images come."""

    def __init__(self):
        self.begun = False

    def write(self, records: list[Record]) -> None:
        averaged, compared = "by_seed" in records[0], "percentile" in records[0]
        if not self.begun:
            noises = f"{'noise by noise':<19}  " * averaged
            show(f"{'uncertainty':>11}  {noises}{'more uncertain than  ' * compared}{'images':<7} prompt")
            self.begun = True
        for record in records:
            uncertainty = f"{record['uncertainty']:.4g}" if "uncertainty" in record else "-"
            outcome = "halted" if record["halted"] else str(len(record["images"]))
            percentile = f"{percentile_text(record):<19}  " if compared else ""
            noises = f"{noises_text(record['by_seed']):<19}  " if averaged else ""
            show(f"{uncertainty:>11}  {noises}{percentile}{outcome:<7} {visible(record['prompt'])}")
