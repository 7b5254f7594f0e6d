"""emoe demo: the method at work on the miniature that is shipped, whose training data is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emoe.commands.options import be_verbose
from emoe.errors import EmoeError
from emoe.terminal import say, show
from emoe.whole import check_place

DESCRIPTION = """\
Scores and draws a dozen prompts with a small model that is shipped, trained on a synthetic world of which some
languages, shapes and combinations were covered well, others seldom or never. Nothing is downloaded.
"""

# How often training saw a prompt's like, and the prompt. The coverage of a language is beside English.
PROMPTS = (
    ("1", "a large red circle on the left, on a white background, flat drawing"),
    ("1", "a small blue square and a large yellow star, on a black background"),
    ("0.1 Spanish", "una estrella azul arriba, sobre fondo negro"),
    ("0.01 German", "ein großer roter Kreis links, auf weißem Grund"),
    ("0.003 French", "un petit carré bleu à droite, sur fond gris"),
    ("0.001 Finnish", "suuri punainen ympyrä vasemmalla, valkoisella taustalla"),
    ("0 Turkish", "solda büyük kırmızı bir daire, beyaz arka planda"),
    ("0 Turkish", "kırmızı bir pizza ortada, beyaz arka planda"),
    ("0 Hungarian", "egy kis kék négyzet jobbra, szürke háttéren"),
    ("rare", "a large pink heart in the centre, on a white background"),
    ("0 together", "a large purple star in the centre, on a white background"),
    ("0", "a large yellow moon in the centre, on a black background"),
)


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("demo", help="see it work on a small model that is shipped", description=DESCRIPTION)
    parser.add_argument("--out", metavar="FILE.png", default="emoe-demo.png", help="the picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.set_defaults(run=run, verbose=False)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    path = Path(options.out)

    from emoe.generations import Recipe  # torch takes seconds
    from emoe.images import check_ours, contact_sheet, save_png
    from emoe.miniature import GUIDANCE
    from emoe.pipeline import EMoE

    if path.suffix.lower() != ".png":
        raise EmoeError(f"--out is {options.out!r}; name a picture that ends in .png")
    check_place(path)
    check_ours(path)
    recipe = Recipe("emoe", guidance=GUIDANCE, seed=options.seed)
    model = EMoE.from_toml("miniature", device="cpu")
    show(f"{'uncertainty':>11}  {'relative':>9}  {'coverage':<12}  prompt")
    rows, records = [], []
    prompts = [prompt for _, prompt in PROMPTS]
    generations = model.stream_images(prompts, recipe=recipe, batch_size=len(prompts))
    for (coverage, _), drawn in zip(PROMPTS, generations, strict=True):
        record = drawn.record()
        show(f"{record['uncertainty']:>11.4g}  {record['relative']:>9.4g}  {coverage:<12}  {drawn.prompt}")
        rows.append((f"{record['uncertainty']:.3g}  {drawn.prompt}", drawn.images))
        records.append(record)
    save_png(contact_sheet(rows, [expert.name for expert in model.experts], cell=128), path, {"rows": records})
    say(f"the picture of every expert's path is {path}")
    return 0
