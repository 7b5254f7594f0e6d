"""From measurements to answers: what the test prompts say about the settings that the validation prompts chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coverage_parts.gaps import OfGaps
from coverage_parts.images import OfImages
from coverage_parts.languages import OfLanguages
from coverage_parts.measure import Family, Judges, Variant
from coverage_parts.mixtures import OfMixtures
from coverage_parts.numbers import OfNumbers
from coverage_parts.settings import Plan, Row, Setting

Found = dict[str, Any]  # answers by name: rows, curves, pictures


def answers(family: Family, plan: Plan, chosen: Mapping[str, Setting], judges: Callable[[], Judges]) -> Found:
    """Of one family, by the names that the report's sections know; and the mixture's fingerprint."""
    asked = family, plan, chosen, judges
    languages, gaps, images = OfLanguages(*asked), OfGaps(*asked), OfImages(*asked)
    numbers, mixtures = OfNumbers(*asked), OfMixtures(*asked)
    questions = [
        languages.settings, languages.languages, languages.hearing, languages.length, languages.by_length,
        languages.timesteps,
        mixtures.later, gaps.gaps, images.correct, images.quartiles, images.across, images.rejects, images.curves,
        images.pictures, numbers.beside, numbers.elsewhere, numbers.saturation, mixtures.variants,
    ]  # fmt: skip
    found: Found = {question.__name__: question() for question in questions}
    found["summary"] = _summary(found["beside"], found["rejects"])
    return found | {"mixture": family.model(Variant()).mixture}


def _summary(beside: list[Row], rejects: list[Row]) -> list[Row]:
    """Every number: what it knows of coverage, and of the image to come."""
    error = {row["number"]: row["Spearman with error"] for row in rejects}
    return [row | {"Spearman with image's error": error[row["number"]]} for row in beside]
