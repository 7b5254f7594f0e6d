"""emoe demo: the method at work on the miniature that is shipped, whose training data is known."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from emoe.commands.options import be_verbose
from emoe.errors import EmoeError
from emoe.terminal import say, show
from emoe.whole import check_place

if TYPE_CHECKING:
    from emoe.miniature.world import World

DESCRIPTION = """\
Scores the same 30 scenes, told in seven languages, with a small model that is shipped. Training met captions of some
languages often, of others seldom or never. Then draws a few of the scenes in every language. Nothing is downloaded.
"""
SCENES, SEEDS = 30, 4
DRAWN = 4  # of the scenes


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("demo", help="see it work on a small model that is shipped", description=DESCRIPTION)
    parser.add_argument("--out", metavar="FILE.png", default="emoe-demo.png", help="the picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.set_defaults(run=run, verbose=False, weights="miniature")
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    path = Path(options.out)

    from tqdm import tqdm  # these take seconds

    from emoe.generations import Recipe
    from emoe.images import check_ours, contact_sheet, save_png
    from emoe.miniature import GUIDANCE
    from emoe.miniature.world import World
    from emoe.pipeline import EMoE
    from emoe.scores import Reading

    if path.suffix.lower() != ".png":
        raise EmoeError(f"--out is {options.out!r}; name a picture that ends in .png")
    check_place(path)
    check_ours(path)
    recipe = Recipe("mixture", guidance=GUIDANCE, seed=options.seed)
    reading = Reading(seed=options.seed, seeds=SEEDS)
    model = EMoE.from_toml("miniature", device="cpu")

    world = World()
    prompts = _prompts(world)
    show(f"{'language':<10} {'captions in training':>20}  {'median uncertainty':>18}  first prompt")
    columns, records = {}, []
    with tqdm(total=len(world.languages), unit="language", disable=not sys.stderr.isatty()) as bar:
        for language, coverage in world.languages.items():
            scored = model.stream(prompts[language], reading=reading, batch_size=SCENES)
            found = [record for scores in scored for record in scores.records()]
            middle = median(record["uncertainty"] for record in found)
            captions = "most" if coverage == 1 else f"{coverage:g} of English" if coverage else "none"
            show(f"{language:<10} {captions:>20}  {middle:>18.3g}  {prompts[language][0]}")
            drawn = model.stream_images(prompts[language][:DRAWN], recipe=recipe, batch_size=DRAWN)
            columns[f"{language} {middle:.2g}"] = [image for generation in drawn for image in generation.images]
            records += found
            bar.update()
    scenes = zip(prompts["English"], zip(*columns.values(), strict=True), strict=False)
    save_png(contact_sheet(list(scenes), list(columns), cell=128), path, {"rows": records})
    say(f"the same scenes, drawn from every language: {path}")
    return 0


def _prompts(world: World) -> dict[str, list[str]]:
    """By language: the same scenes, with the same things told of them."""
    import numpy

    from emoe.miniature.languages import caption

    rng = numpy.random.default_rng(1)
    told = [(scene, world.mention(rng, "English")) for scene in islice(world.scenes(rng), SCENES)]
    return {
        language: [caption(scene, replace(mention, language=language)) for scene, mention in told]
        for language in world.languages
    }
