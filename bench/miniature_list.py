"""Prompts about the miniature's world, to study: scenes told in every language, with their English and picture.

python bench/miniature_list.py FOLDER               30 scenes in seven languages: FOLDER/list.csv and its pictures
python bench/miniature_list.py FOLDER --scenes 286  about 2,000 prompts

Scenes are such as training might have drawn; languages it was told in differ (`emoe/miniature/world.py`).
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy

from emoe.miniature.languages import caption
from emoe.miniature.render import render
from emoe.miniature.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    (options.folder / "pictures").mkdir(parents=True, exist_ok=True)
    world, rng = World(), numpy.random.default_rng(options.seed)
    scenes = world.scenes(rng)
    with (options.folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["group", "prompt", "reference", "image"])
        for number, scene in zip(range(options.scenes), scenes, strict=False):
            picture = f"pictures/{number:04}.png"
            render(scene, rng).save(options.folder / picture)
            mention = world.mention(rng, "English")
            for language in world.languages:
                prompt = caption(scene, replace(mention, language=language))
                rows.writerow([language, prompt, caption(scene, mention), picture])
    print(f"{options.folder / 'list.csv'}: {options.scenes} scenes in {len(world.languages)} languages")


if __name__ == "__main__":
    main()
