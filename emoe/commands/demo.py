"""emoe demo: the method at work on the miniature that is shipped, whose training data is known."""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from emoe.atomic import check_place
from emoe.commands.options import be_verbose
from emoe.errors import EmoeError
from emoe.progress import progress
from emoe.terminal import say, show

if TYPE_CHECKING:
    from emoe.miniature.world import Mention, Scene, World

DESCRIPTION = """\
Scores the same 30 scenes, told in seven languages, with a small model that is shipped. Training met captions of some
languages often, of others seldom or never. Then draws a few of the scenes in every language. Nothing is downloaded.
"""
SCENES, SEEDS = 30, 4
DRAWN = 4  # scenes at most


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("demo", help="see it work on a small model that is shipped", description=DESCRIPTION)
    parser.add_argument("--out", metavar="FILE.png", default="emoe-demo.png", help="the picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.set_defaults(run=run, verbose=False, weights="miniature")
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    path = Path(options.out)

    from emoe.generations import Recipe  # these take seconds
    from emoe.miniature import GUIDANCE
    from emoe.miniature.languages import caption
    from emoe.miniature.world import World
    from emoe.pipeline import EMoE
    from emoe.png import check_ours, save_png
    from emoe.scores import Reading
    from emoe.sheet import contact_sheet

    if path.suffix.lower() != ".png":
        raise EmoeError(f"--out is {options.out!r}; name a picture that ends in .png")
    check_place(path)
    check_ours(path)
    recipe = Recipe("mixture", guidance=GUIDANCE, seed=options.seed)
    reading = Reading(seed=options.seed, seeds=SEEDS)
    model = EMoE.from_toml("miniature", device="cpu")

    world = World()
    told = _told(world)
    shown = [i for i, (scene, _) in enumerate(told) if _is_clear(scene)][:DRAWN]
    show(f"{'language':<10} {'captions in training':>20}  {'median uncertainty':>18}  first prompt")
    columns, records = {}, []
    with progress(len(world.languages), "language") as bar:
        for language, coverage in world.languages.items():
            prompts = [caption(scene, replace(mention, language=language)) for scene, mention in told]
            scored = model.stream(prompts, reading=reading, batch_size=SCENES)
            found = [record for scores in scored for record in scores.records()]
            middle = median(record["uncertainty"] for record in found)
            captions = "most" if coverage == 1 else f"{coverage:g} of English" if coverage else "none"
            show(f"{language:<10} {captions:>20}  {middle:>18.3g}  {prompts[0]}")
            drawn = model.stream_images([prompts[i] for i in shown], recipe=recipe, batch_size=DRAWN)
            head = f"{language}\nmedian of {SCENES}: {middle:.2g}"
            columns[head] = [image for generation in drawn for image in generation.images]
            records += found
            bar.update()
    scenes = zip((caption(*told[i]) for i in shown), zip(*columns.values(), strict=True), strict=True)
    save_png(contact_sheet(list(scenes), list(columns), cell=144), path, {"rows": records})
    say(f"{len(shown)} of the scenes, drawn from every language, below its median over all {SCENES}: {path}")
    return 0


def _told(world: World) -> list[tuple[Scene, Mention]]:
    """The scenes, and what of each is told, in every language alike."""
    import numpy

    rng = numpy.random.default_rng(1)
    return [(scene, world.mention(rng, "English")) for scene in islice(world.scenes(rng), SCENES)]


def _is_clear(scene: Scene) -> bool:
    """One large thing, filled: the small model draws these best. Every language says "pizza", so that shows no gap."""
    thing, *others = scene.things
    return not others and thing.size == "large" and scene.style != "outline" and thing.shape != "pizza"
