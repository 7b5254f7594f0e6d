"""emoe study: what a list of prompts says, as a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoe.alone import alone
from emoe.commands.options import (
    add_machine,
    add_prompts,
    add_reading,
    add_weights,
    be_verbose,
    reading_of,
    rows_of,
    texts_of,
)
from emoe.errors import EmoeError
from emoe.prompts import check_text
from emoe.records import USUAL, Record, RecordFile
from emoe.terminal import say
from emoe.whole import check_place, make_folder
from emoe.words import stem_of

if TYPE_CHECKING:
    from emoe.commands.stages import Stages
    from emoe.generations import Recipe
    from emoe.scores import Reading
    from emoe.study.ablations import Way
    from emoe.study.alignment import Clip
    from emoe.study.paper import Studied

DESCRIPTION = """\
Scores a list of prompts and writes what it says: the most and the least uncertain prompts, quarters of the list, groups
side by side (a `group` column of the list), words; with --images also how well images fit, with --baselines whether
simpler numbers say more. A run cut short goes on, and the same list gives the same report.
"""
RESAMPLES = 1000  # of every interval


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("study", help="a report on a list of prompts", description=DESCRIPTION)
    add_prompts(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="scores, report.html, report.md, tables")
    parser.add_argument("--images", action="store_true", help="draw every prompt, and ask CLIP how well images fit")
    parser.add_argument("--clip", metavar="NAME", help="on the Hub or a folder (default: openai/clip-vit-base-patch16)")
    parser.add_argument("--guidance", type=float, help="of images, baselines, --ablate latent and run (default: 7.5)")
    parser.add_argument(
        "--baselines", action="store_true", help="also other numbers of the same noise, and which is best"
    )
    parser.add_argument(
        "--word", action="append", default=[], help="is it a known one? (pizza*: however it goes on; several times)"
    )
    parser.add_argument("--template", metavar="TEXT", help='instead of a list: "A {white|black} {man|woman}"')
    others = "size, timestep, read-out, estimator, split, gate, experts, latent, run"
    parser.add_argument("--ablate", metavar="WHAT,...", help=f"does the verdict depend on it? {others}")
    add_weights(parser)
    add_reading(parser)
    add_machine(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    for word in options.word:
        if not stem_of(word) or "*" in stem_of(word):
            raise EmoeError(f"--word is {word!r}; name a word, with * at its end if it may go on")
    for text in (*options.word, options.negative, options.template or ""):
        check_text(text)
    if options.clip == "":
        raise EmoeError("--clip is empty; name a CLIP on the Hub, or a folder")
    if options.clip is not None and not options.images:
        raise EmoeError("--clip asks how well images fit, and none are drawn; add --images")
    if options.template is not None and (options.prompt or options.prompts is not None):
        raise EmoeError("--template makes its own prompts; leave the others out")
    if options.template is None:
        rows = rows_of(options)

    from emoe.config import read_weights  # these take seconds; the mistakes above need not wait
    from emoe.generations import Recipe
    from emoe.pipeline import check_batch_size

    try:
        from emoe.study import ablations, alignment, columns, paper, templates  # noqa: F401
    except ModuleNotFoundError as error:
        raise EmoeError(f"emoe study needs {error.name}; pip install 'emoe[study]'") from error
    if options.template is not None:
        rows = templates.fill(options.template, options.negative)
        if options.seeds < (fewest := templates.fewest_seeds(options.template)):
            raise EmoeError(f"--template compares over noises, of which {fewest} can tell at the least; set --seeds 16")
    columns.check_sizes(rows)
    if not options.out:
        raise EmoeError("--out is empty; name a folder")
    _ = read_weights(options.weights)  # a mistake there leaves no folder
    options.ablate = ablations.check(options.ablate, options.estimator) if options.ablate is not None else []
    if options.batch_size is not None:
        check_batch_size(options.batch_size)
    guided = {} if options.guidance is None else {"guidance": options.guidance}
    if guided and not _guides(options):
        raise EmoeError("--guidance guides nothing here; add --images, --baselines, or --ablate latent or run")
    if options.baselines and any(row["negative_prompt"] for row in rows):
        raise EmoeError("--baselines guides away from the empty prompt; leave negative prompts out")
    reading = reading_of(options)
    recipe = Recipe("mixture", steps=options.steps, seed=options.seed, size=options.size, **guided)
    folder, clip = Path(options.out), None
    _check(folder, rows)
    if options.images:
        for row in rows:
            if "image" in row:
                alignment.open_truth(_truths(options) / row["image"])
        options.clip = options.clip or alignment.usual_clip(options.weights)
        clip = alignment.load_clip(options.clip)
    asks = {"tables": True, "images": options.images, "ablations": bool(options.ablate)}
    for path in (folder, *(folder / name for name, needed in asks.items() if needed)):
        make_folder(path)
    with alone(folder / "scores.jsonl"):
        return _study(options, rows, reading, recipe, folder, clip)


def _study(
    options: argparse.Namespace, rows: list[Record], reading: Reading, recipe: Recipe, folder: Path, clip: Clip | None
) -> int:
    """What can be found wrong with the model at hand is found before hours are spent."""
    from emoe.commands.stages import Stages
    from emoe.device import enough_memory
    from emoe.pipeline import EMoE
    from emoe.scoring import check_not_empty
    from emoe.study import ablations
    from emoe.study.paper import write_report

    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    reading, recipe = model.at_own_size(reading), model.at_own_size(recipe)
    if options.images:
        _ = model.vae
    ways = list(ablations.ways(model, reading, options.ablate))
    if any(way.reading.estimator == "eu-over-answer" for way in ways):
        check_not_empty(model, texts_of(rows)[0])

    with enough_memory():
        found = _found(options, Stages(model, rows, reading, recipe, folder, options.batch_size), clip, ways)
    say(f"the report is {write_report(found, folder)}")
    return 0


def _found(options: argparse.Namespace, stages: Stages, clip: Clip | None, ways: list[Way]) -> Studied:
    """Stage by stage."""
    from emoe.commands.stages import joined
    from emoe.study.ablations import RUNS, SUBSETS
    from emoe.study.cost import cost
    from emoe.study.paper import Studied

    model, recipe, folder = stages.model, stages.recipe, stages.folder
    parts = [stages.scores()]
    files = {"weights": Path(options.weights).name} | ({"list": Path(options.prompts).name} if options.prompts else {})
    settings = files | asdict(stages.reading) | {"mixture": model.mixture}
    if _guides(options):
        settings |= {"guidance": recipe.guidance, "steps": recipe.steps}
    found: dict[str, Any] = {}
    if clip:
        drawn = stages.images()
        parts.append(stages.alignment(clip, options.clip, drawn, _truths(options)))
        parts.append([{"images": record["images"]} for record in drawn])
        settings |= {"CLIP": options.clip, "vae": model.vae_mark}
        found["images"] = folder / "images"
    if options.baselines:
        parts.append([{"baselines": record["baselines"]} for record in stages.baselines()])
    records = joined(parts)
    if options.template is not None:
        found["template"] = options.template
    if options.ablate:
        found["ways"] = {"as studied": records} | {way.name: stages.way(way) for way in ways}
        if SUBSETS in options.ablate:
            found["ways"] |= stages.fewer()
        for name in (name for name in RUNS if name in options.ablate):
            found["ways"] |= stages.along(name)
    if clip:
        kept = (folder / "scores.jsonl").stat().st_size / len(records)
        found["cost"] = cost(model, records[0]["prompt"], stages.reading, recipe, kept)
    return Studied(records=records, settings=settings, words=options.word, resamples=RESAMPLES, **found)


def _guides(options: argparse.Namespace) -> bool:
    """Whether anything of a study is guided; a score is not."""
    from emoe.study.ablations import RUNS

    return options.images or options.baselines or not set(RUNS).isdisjoint(options.ablate)


def _truths(options: argparse.Namespace) -> Path:
    """Where the list's images lie: beside it."""
    return Path(options.prompts or "").parent


def _check(folder: Path, rows: list[Record]) -> None:
    """EmoeError for a folder that holds anything but a study of this list: before anything is made or downloaded."""
    if (folder / "scores.jsonl").exists():
        _ = RecordFile(folder / "scores.jsonl", rows, USUAL)
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                raise EmoeError(f"{folder} holds other things ({path.name}); name a new folder with --out")
    for name in ("report.html", "report.md") if folder.is_dir() else ():
        check_place(folder / name)
