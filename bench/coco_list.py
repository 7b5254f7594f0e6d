"""COCO's captions -> a list like the paper's: one caption an image, with its photograph where that is at hand.

python bench/coco_list.py captions_val2014.json list.csv                    40,504 prompts
python bench/coco_list.py captions_val2014.json list.csv --photos val2014   and each with its photograph, for SSIM
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("list", type=Path)
    parser.add_argument("--photos", type=Path, help="the folder of COCO's images")
    options = parser.parse_args(arguments)
    try:
        told = json.loads(options.captions.read_text(encoding="utf-8"))
        pairs = list(first_captions(told))
        photos = [options.photos / image["file_name"] for image, _ in pairs] if options.photos else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.captions} is not COCO's captions ({error!r})")
    if options.list.exists():
        parser.error(f"{options.list} is there already")
    if missing := [photo for photo in photos if not photo.exists()]:
        parser.error(f"{len(missing)} photographs are not there, {missing[0]} for one")
    with options.list.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "prompt", *(["image"] if options.photos else [])])
        for i, (image, caption) in enumerate(pairs):
            rows.writerow([image["id"], caption, *(str(photo.absolute()) for photo in photos[i : i + 1])])
    print(f"{options.list}: {len(pairs)} prompts")


def first_captions(told: dict) -> Iterator[tuple[dict, str]]:
    """Of each image, in the file's order, the caption with the lowest number."""
    first: dict[int, dict] = {}
    for annotation in sorted(told["annotations"], key=lambda annotation: annotation["id"]):
        first.setdefault(annotation["image_id"], annotation)
    for image in told["images"]:
        if image["id"] in first:
            yield image, " ".join(first[image["id"]]["caption"].split())


if __name__ == "__main__":
    main()
