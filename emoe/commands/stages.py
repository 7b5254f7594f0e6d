"""What a study computes of a list, stage by stage: each a file of records, where a run that was cut short goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path

from emoe.commands.options import texts_of
from emoe.gallery import RECORDS, intact, save
from emoe.generations import Recipe
from emoe.images import open_drawn
from emoe.pipeline import DRAWN, SCORED, EMoE
from emoe.progress import progress
from emoe.records import Record, RecordFile
from emoe.scores import Reading
from emoe.study.alignment import Clip, open_truth, ssim

ALIGNED = 16  # images at a time before CLIP
SEEN = 8  # prompts at a time before the baselines, which run the whole UNet for both guidance halves


def images(model: EMoE, rows: list[Record], recipe: Recipe, batch_size: int | None, folder: Path) -> list[Record]:
    """As `emoe generate` draws them."""
    file = RecordFile(folder / RECORDS, rows)
    file.check(asdict(recipe) | {"mixture": model.mixture, "vae": model.vae_mark})
    file.keep(intact(folder, file.records))
    done = file.go_on(model.batch_size(batch_size, DRAWN))
    with progress(len(rows), "image", done, "images") as bar:
        for number, generation in enumerate(model.stream_images(*texts_of(rows[done:]), recipe, batch_size), done):
            file.write([rows[number] | save(folder, number + 1, generation)])
            bar.update()
    return RecordFile(folder / RECORDS, rows).records


def alignment(
    clip: Clip, name: str, rows: list[Record], drawn: list[Record], folder: Path, truths: Path, path: Path
) -> list[Record]:
    """CLIP score and, where there is a ground truth (in the folder `truths`), SSIM of every prompt's image."""
    same = ("mixture", "vae", "steps", "guidance", "scheduler", "seed", "size")
    told = {"clip_model": name} | {key: drawn[0][key] for key in same}

    def compute(start: int, some: list[Record]) -> Iterator[Record]:
        pictures = [open_drawn(folder / record["images"][0]) for record in drawn[start : start + len(some)]]
        fit = clip.score(pictures, [row.get("reference_text", row["prompt"]) for row in some]).tolist()
        for row, picture, score in zip(some, pictures, fit, strict=True):
            truth = open_truth(truths / row["image"], picture.width) if "image" in row else None
            yield {"clip": round(score, 4)} | ({} if truth is None else {"ssim": round(ssim(picture, truth), 6)})

    return _stage(path, rows, told, compute, ALIGNED, "alignment")


def baselines(
    model: EMoE, rows: list[Record], reading: Reading, steps: int, guidance: float, batch_size: int | None, path: Path
) -> list[Record]:
    """Every other number that needs no training, from the noise of the reading's first seed."""
    from emoe.study.baselines import BASELINES, GATED, classifier_error
    from emoe.study.observe import observe

    told = {key: getattr(reading, key) for key in ("seed", "timestep", "size")}
    told |= {"steps": steps, "guidance": guidance, "mixture": model.mixture}
    z = model.noise(reading.seed, reading.size)

    def compute(start: int, some: list[Record]) -> Iterator[Record]:
        text = model.encode(texts_of(some)[0])
        seen = observe(model, text, z, reading.timestep, steps, guidance)
        numbers = BASELINES | (GATED if seen.logits is not None else {})
        found = {name: f(seen).tolist() for name, f in numbers.items()}
        found["diffusion classifier"] = classifier_error(model, text, seen).tolist()
        for i in range(len(some)):  # JSON knows no nan
            yield {"baselines": {name: None if isnan(values[i]) else values[i] for name, values in found.items()}}

    return _stage(path, rows, told, compute, min(SEEN, batch_size or SEEN), "baselines")


def along(
    model: EMoE, rows: list[Record], recipe: Recipe, name: str, batch_size: int | None, path: Path
) -> dict[str, list[Record]]:
    """What `ablations.along` sees in runs of the paths: records by way."""
    from emoe.study.ablations import along

    told = asdict(recipe) | {"mixture": model.mixture}

    def compute(start: int, some: list[Record]) -> Iterator[Record]:
        found = {way: u.tolist() for way, u in along(model, *texts_of(some), recipe, name).items()}
        yield from ({name: {way: values[i] for way, values in found.items()}} for i in range(len(some)))

    return _by_way(_stage(path, rows, told, compute, model.batch_size(batch_size, DRAWN), name), name)


def fewer(
    model: EMoE, rows: list[Record], reading: Reading, batch_size: int | None, path: Path
) -> dict[str, list[Record]]:
    """What `ablations.fewer` sees: records by the experts whose paths count."""
    from emoe.study.ablations import SUBSETS, fewer

    def compute(start: int, some: list[Record]) -> Iterator[Record]:
        found = {way: u.tolist() for way, u in fewer(model, *texts_of(some), reading).items()}
        yield from ({SUBSETS: {way: values[i] for way, values in found.items()}} for i in range(len(some)))

    told = asdict(reading) | {"mixture": model.mixture}
    return _by_way(_stage(path, rows, told, compute, model.batch_size(batch_size, SCORED), SUBSETS), SUBSETS)


def _by_way(records: list[Record], name: str) -> dict[str, list[Record]]:
    """Records that hold several ways' uncertainties under `name`, as a list per way."""
    ways = records[0][name]
    return {way: [record | {"uncertainty": record[name][way]} for record in records] for way in ways}


def _stage(
    path: Path,
    rows: list[Record],
    told: Record,
    compute: Callable[[int, list[Record]], Iterator[Record]],
    batch_size: int,
    name: str,
) -> list[Record]:
    """Records of all rows. compute(number of the first, some rows): what is to be kept of each."""
    file = RecordFile(path, rows)
    file.check(told)
    done = file.go_on(batch_size)
    with progress(len(rows), "prompt", done, name) as bar:
        for start in range(done, len(rows), batch_size):
            some = rows[start : start + batch_size]
            file.write([row | kept | told for row, kept in zip(some, compute(start, some), strict=True)])
            bar.update(len(some))
    return RecordFile(path, rows).records


def joined(stages: Sequence[Sequence[Record]]) -> list[Record]:
    """The records of several stages as one list; the first stage's settings stay."""
    return [
        {key: value for record in reversed(records) for key, value in record.items()}
        for records in zip(*stages, strict=True)
    ]
