"""What the records of a list say, as columns.

A record is a line that `emoe score --out` wrote, with what the study's other stages found of the prompt: `clip` and
`ssim` of its image, `baselines`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from emoe.errors import EmoeError
from emoe.records import Record
from emoe.study.statistics import Array
from emoe.words import words_of

FIRST_NOISE = "uncertainty, first noise"


def uncertainties(records: Sequence[Record]) -> Array:
    """(n,)"""
    return numpy.array([record["uncertainty"] for record in records])


def by_noise(records: Sequence[Record]) -> Array | None:
    """(s, n) the uncertainty under each noise alone; None with one noise."""
    if not all("by_seed" in record for record in records):
        return None
    return numpy.array([record["by_seed"] for record in records]).T


def lengths(records: Sequence[Record]) -> Array:
    """(n,) words."""
    return numpy.array([len(words_of(record["prompt"])) for record in records])


def measures(records: Sequence[Record]) -> dict[str, Array]:
    """What is known of every prompt beside the number: its words, and how well its image fits."""
    found = {"words": lengths(records)}
    for key, name in (("clip", "CLIP score"), ("ssim", "SSIM")):
        if all(key in record for record in records):
            found[name] = numpy.array([record[key] for record in records])
    return found


def estimates(records: Sequence[Record]) -> dict[str, Array]:
    """Every number that ranks these prompts, higher is more uncertain: ours, and the baselines where they were run."""
    found = {key: numpy.array([record[key] for record in records]) for key in ("uncertainty", "relative")}
    if (noises := by_noise(records)) is not None:  # what the baselines are of
        found[FIRST_NOISE] = noises[0]
    for name in records[0].get("baselines", {}):
        found[name] = numpy.array([record["baselines"][name] for record in records], float)  # None: nan
    return found


def scenes(records: Sequence[Record]) -> Array | None:
    """(n,) which prompts say the same: those of one `reference`. None where no two do.

    They depend on one another, so that the scenes are the sample, and not the prompts.
    """
    told = [record.get("reference_text") or f"\0{i}" for i, record in enumerate(records)]
    return numpy.unique(told, return_inverse=True)[1] if len(set(told)) < len(told) else None


def groups_of(records: Sequence[Record]) -> list[str]:
    """Each once, in the order of the list."""
    return list(dict.fromkeys(record["group"] for record in records if "group" in record))


def of_group(records: Sequence[Record], group: str) -> list[Record]:
    return [record for record in records if record.get("group") == group]


def check_sizes(records: Sequence[Record]) -> None:
    """EmoeError for a group that the list gives two sizes."""
    sizes: dict[str, float] = {}
    for record in records:
        if "group" in record and "group_size" in record:
            size = sizes.setdefault(record["group"], record["group_size"])
            if size != record["group_size"]:
                raise EmoeError(
                    f"the group {record['group']!r} has the sizes {size:g} and {record['group_size']:g}; give all of "
                    "its prompts the same"
                )
