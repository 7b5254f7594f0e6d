"""emoe study: what a list of prompts says, as a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emoe.atomic import check_place, made
from emoe.commands.options import (
    add_machine,
    add_prompts,
    add_reading,
    add_weights,
    be_verbose,
    reading_of,
    rows_of,
)
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.exclusive import exclusive
from emoe.prompts import check_text
from emoe.records import USUAL, Record, RecordFile, texts_of
from emoe.terminal import say
from emoe.words import stem_of

if TYPE_CHECKING:
    from emoe.generations import Recipe
    from emoe.scores import Reading
    from emoe.study.ablations import Way
    from emoe.study.alignment import Clip
    from emoe.study.paper import Studied
    from emoe.study.stages import Stages

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
    """What can be found wrong is found before CLIP is downloaded or a folder made, and that before hours are spent."""
    be_verbose(options)
    plan = _plan(options)
    clip = plan.load_clip()
    with made(*plan.folders), exclusive(plan.folder / "scores.jsonl"):
        return _study(options, plan, clip)


@dataclass(frozen=True)
class Plan:
    """What is asked of which prompts, and where it goes."""

    rows: list[Record]
    reading: Reading
    recipe: Recipe  # of whatever is drawn or guided
    folder: Path
    truths: Path  # the folder in which the list's own images lie
    clip: str | None  # its name, where images are drawn
    baselines: bool
    ablate: list[str]

    @property
    def guided(self) -> bool:
        """Whether anything is; a score is not."""
        from emoe.study.ablations import RUNS

        return self.clip is not None or self.baselines or not set(RUNS).isdisjoint(self.ablate)

    @property
    def folders(self) -> list[Path]:
        asked = {"tables": True, "images": self.clip is not None, "ablations": bool(self.ablate)}
        return [self.folder, *(self.folder / name for name, needed in asked.items() if needed)]

    def load_clip(self) -> Clip | None:
        from emoe.study.alignment import load_clip

        return None if self.clip is None else load_clip(self.clip)


def _plan(options: argparse.Namespace) -> Plan:
    """EmoeError for what is wrong with options, list or folder; nothing is made or downloaded."""
    _check_texts(options)
    rows = [] if options.template is not None else rows_of(options)
    _ = read_weights(options.weights)

    from emoe.generations import Recipe  # torch takes seconds; the mistakes above need not wait
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
    check_batch_size(options.batch_size)
    if options.baselines and any(row["negative_prompt"] for row in rows):
        raise EmoeError("--baselines guides away from the empty prompt; leave negative prompts out")
    guidance = {} if options.guidance is None else {"guidance": options.guidance}
    plan = Plan(
        rows=rows,
        reading=reading_of(options),
        recipe=Recipe("mixture", steps=options.steps, seed=options.seed, size=options.size, **guidance),
        folder=Path(options.out),
        truths=Path(options.prompts or "").parent,  # beside the list
        clip=(options.clip or alignment.usual_clip(options.weights)) if options.images else None,
        baselines=options.baselines,
        ablate=[] if options.ablate is None else ablations.check(options.ablate, options.estimator),
    )
    if guidance and not plan.guided:
        raise EmoeError("--guidance guides nothing here; add --images, --baselines, or --ablate latent or run")
    _check_folder(plan)
    for row in rows if options.images else ():
        if "image" in row:
            alignment.open_truth(plan.truths / row["image"])
    return plan


def _check_texts(options: argparse.Namespace) -> None:
    """What can be seen of the options alone, before anything is read."""
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


def _check_folder(plan: Plan) -> None:
    """EmoeError for a folder that holds anything but a study of this list."""
    folder = plan.folder
    if (folder / "scores.jsonl").exists():
        _ = RecordFile(folder / "scores.jsonl", plan.rows, USUAL)
    elif folder.is_dir():
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                raise EmoeError(f"{folder} holds other things ({path.name}); name a new folder with --out")
    for name in ("report.html", "report.md") if folder.is_dir() else ():
        check_place(folder / name)


def _study(options: argparse.Namespace, plan: Plan, clip: Clip | None) -> int:
    """What can be found wrong with the model at hand is found first."""
    from emoe.device import enough_memory
    from emoe.pipeline import EMoE
    from emoe.scoring import check_not_empty
    from emoe.study import ablations
    from emoe.study.paper import write_report
    from emoe.study.stages import Stages

    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    ablations.check_model(model, plan.ablate)
    reading, recipe = model.at_own_size(plan.reading), model.at_own_size(plan.recipe)
    if clip:
        _ = model.vae
    ways = list(ablations.ways(model, reading, plan.ablate))
    if any(way.reading.estimator == "eu-over-answer" for way in ways):
        check_not_empty(model, texts_of(plan.rows)[0])

    with enough_memory():
        stages = Stages(model, plan.rows, reading, recipe, plan.folder, options.batch_size)
        found = _found(options, plan, stages, clip, ways)
    say(f"the report is {write_report(found, plan.folder)}")
    return 0


def _found(options: argparse.Namespace, plan: Plan, stages: Stages, clip: Clip | None, ways: list[Way]) -> Studied:
    """Stage by stage."""
    from emoe.study.ablations import RUNS, SUBSETS
    from emoe.study.cost import cost
    from emoe.study.paper import Studied
    from emoe.study.stages import joined

    model, recipe = stages.model, stages.recipe
    parts = [stages.scores()]
    files = {"weights": Path(options.weights).name} | ({"list": Path(options.prompts).name} if options.prompts else {})
    settings = files | asdict(stages.reading) | {"mixture": model.mixture}
    if plan.guided:
        settings |= {"guidance": recipe.guidance, "steps": recipe.steps}
    found: dict[str, Any] = {}
    if clip:
        drawn = stages.images()
        parts.append(stages.alignment(clip, plan.clip, drawn, plan.truths))
        parts.append([{"images": record["images"]} for record in drawn])
        settings |= {"CLIP": plan.clip, "vae": model.vae_mark}
        found["images"] = plan.folder / "images"
    if plan.baselines:
        parts.append([{"baselines": record["baselines"]} for record in stages.baselines()])
    records = joined(parts)
    if options.template is not None:
        found["template"] = options.template
    if plan.ablate:
        found["ways"] = {"as studied": records} | {way.name: stages.way(way) for way in ways}
        if SUBSETS in plan.ablate:
            found["ways"] |= stages.fewer()
        for name in (name for name in RUNS if name in plan.ablate):
            found["ways"] |= stages.along(name)
    if clip:
        kept = (plan.folder / "scores.jsonl").stat().st_size / len(records)
        found["cost"] = cost(model, records[0]["prompt"], stages.reading, recipe, kept)
    return Studied(records=records, settings=settings, words=options.word, resamples=RESAMPLES, **found)
