"""What a study computes of a list, stage by stage: each a file of records, where a run that was cut short goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from math import isnan
from pathlib import Path

from torch import Tensor

from emoe.gallery import RECORDS, intact, save
from emoe.generations import Recipe
from emoe.pipeline import DRAWN, SCORED, EMoE
from emoe.png import open_drawn
from emoe.progress import progress
from emoe.records import Record, RecordFile, texts_of
from emoe.scored import kept_scores
from emoe.scores import Reading
from emoe.scoring import mid_of_empty
from emoe.study import ablations
from emoe.study.alignment import Clip, open_truth, ssim
from emoe.study.baselines import BASELINES, GATED, classifier_error
from emoe.study.observe import observe

ALIGNED = 16  # images at a time before CLIP
SEEN = 8  # prompts at a time before the baselines, which run the whole UNet for both guidance halves


@dataclass(frozen=True)
class Stages:
    """Of one list, with one mixture. Every stage returns a record a row; those of several ways, of each."""

    model: EMoE
    rows: list[Record]
    reading: Reading  # has a size, as the recipe
    recipe: Recipe  # of the images
    folder: Path
    batch_size: int | None = None

    def scores(self) -> list[Record]:
        """As `emoe score` writes them."""
        return kept_scores(self.model, self.rows, self.reading, self.batch_size, self.folder / "scores.jsonl")

    def images(self) -> list[Record]:
        """As `emoe generate` draws them."""
        model, rows, folder = self.model, self.rows, self.folder / "images"
        file = RecordFile(folder / RECORDS, rows)
        file.check(asdict(self.recipe) | {"mixture": model.mixture, "vae": model.vae_mark})
        file.keep(intact(folder, file.records))
        done = file.go_on(model.batch_size(self.batch_size, DRAWN))
        drawn = model.stream_images(*texts_of(rows[done:]), self.recipe, self.batch_size)
        with progress(len(rows), "image", done, "images") as bar:
            for number, generation in enumerate(drawn, done):
                file.write([rows[number] | save(folder, number + 1, generation)])
                bar.update()
        return RecordFile(folder / RECORDS, rows).records

    def alignment(self, clip: Clip, name: str, drawn: list[Record], truths: Path) -> list[Record]:
        """CLIP score and, where there is a ground truth (in the folder `truths`), SSIM of every prompt's image.

        name: the CLIP's.  drawn: what `images` returned.  Records tell truths by what they hold, as lists may move.
        """
        marked = [row | ({"truth": _mark(truths / row["image"])} if "image" in row else {}) for row in self.rows]
        same = ("mixture", "vae", "steps", "guidance", "scheduler", "seed", "size")
        told = {"clip_model": name} | {key: drawn[0][key] for key in same}

        def compute(start: int, rows: list[Record]) -> Iterator[Record]:
            names = [record["images"][0] for record in drawn[start : start + len(rows)]]
            pictures = [open_drawn(self.folder / "images" / name) for name in names]
            fit = clip.score(pictures, [row.get("reference_text", row["prompt"]) for row in rows]).tolist()
            for row, picture, score in zip(rows, pictures, fit, strict=True):
                truth = open_truth(truths / row["image"], picture.width) if "image" in row else None
                yield {"clip": round(score, 4)} | ({} if truth is None else {"ssim": round(ssim(picture, truth), 6)})

        return self._kept("alignment", told, ALIGNED, compute, rows=marked)

    def baselines(self) -> list[Record]:
        """Every other number that needs no training, from the noise of the reading's first seed."""
        model, reading, steps, guidance = self.model, self.reading, self.recipe.steps, self.recipe.guidance
        told = {key: getattr(reading, key) for key in ("seed", "timestep", "size")}
        told |= {"steps": steps, "guidance": guidance, "mixture": model.mixture}
        z = model.noise(reading.seed, reading.size)

        def compute(start: int, rows: list[Record]) -> Iterator[Record]:
            text = model.encode(texts_of(rows)[0])
            seen = observe(model, text, z, reading.timestep, steps, guidance)
            numbers = BASELINES | (GATED if seen.logits is not None else {})
            found = {name: f(seen).tolist() for name, f in numbers.items()}
            found["diffusion classifier"] = classifier_error(model, text, seen).tolist()
            for i in range(len(rows)):  # JSON knows no nan
                yield {"baselines": {name: None if isnan(values[i]) else values[i] for name, values in found.items()}}

        return self._kept("baselines", told, min(SEEN, self.batch_size or SEEN), compute)

    # The list read in other ways ------------------------------------------------------------------------------------

    def way(self, way: ablations.Way) -> list[Record]:
        """The scores, read so."""
        path = self.folder / "ablations" / f"{way.name.replace(' ', '-')}.jsonl"
        return kept_scores(way.model, self.rows, way.reading, self.batch_size, path)

    def fewer(self) -> dict[str, list[Record]]:
        """What `ablations.fewer` sees, by the experts whose paths count."""

        m_empty = mid_of_empty(self.model, self.reading, texts_of(self.rows)[0])

        def compute(start: int, rows: list[Record]) -> Iterator[Record]:
            yield from _ways(ablations.SUBSETS, ablations.fewer(self.model, *texts_of(rows), self.reading, m_empty))

        told = asdict(self.reading) | {"mixture": self.model.mixture}
        size = self.model.batch_size(self.batch_size, SCORED)
        return _by_way(self._kept(ablations.SUBSETS, told, size, compute, "ablations"), ablations.SUBSETS)

    def along(self, name: str) -> dict[str, list[Record]]:
        """What `ablations.along` sees in runs of the paths, by the step."""
        recipe = replace(self.recipe, mode="emoe", read_out=self.reading.read_out)

        def compute(start: int, rows: list[Record]) -> Iterator[Record]:
            yield from _ways(name, ablations.along(self.model, *texts_of(rows), recipe, name))

        told = asdict(recipe) | {"mixture": self.model.mixture}
        size = self.model.batch_size(self.batch_size, DRAWN)
        return _by_way(self._kept(name, told, size, compute, "ablations"), name)

    # ----------------------------------------------------------------------------------------------------------------

    def _kept(
        self,
        name: str,
        told: Record,
        batch_size: int,
        compute: Callable[[int, list[Record]], Iterator[Record]],
        inside: str = "",
        rows: list[Record] | None = None,
    ) -> list[Record]:
        """Records of all rows. compute(number of the first, some rows): what is to be kept of each, beside `told`.

        rows: with what else decides whether a record is this run's.
        """
        path, rows = self.folder / inside / f"{name}.jsonl", rows or self.rows
        file = RecordFile(path, rows)
        file.check(told)
        done = file.go_on(batch_size)
        with progress(len(rows), "prompt", done, name) as bar:
            for start in range(done, len(rows), batch_size):
                some = rows[start : start + batch_size]
                file.write([row | own | told for row, own in zip(some, compute(start, some), strict=True)])
                bar.update(len(some))
        return RecordFile(path, rows).records


def _mark(path: Path) -> str:
    """Eight digits that tell one file from another."""
    return sha256(path.read_bytes()).hexdigest()[:8]


def _ways(name: str, found: dict[str, Tensor]) -> Iterator[Record]:
    """Several ways' uncertainties, (b,) each, as a record a prompt."""
    values = {way: u.tolist() for way, u in found.items()}
    for numbers in zip(*values.values(), strict=True):
        yield {name: dict(zip(values, numbers, strict=True))}


def _by_way(records: list[Record], name: str) -> dict[str, list[Record]]:
    """Records that hold several ways' uncertainties under `name`, as a list of records per way."""
    return {way: [record | {"uncertainty": record[name][way]} for record in records] for way in records[0][name]}


def joined(stages: Sequence[Sequence[Record]]) -> list[Record]:
    """The records of several stages as one list; the first stage's settings stay."""
    return [
        {key: value for record in reversed(records) for key, value in record.items()}
        for records in zip(*stages, strict=True)
    ]
