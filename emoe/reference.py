"""A reference: how uncertain a mixture is about a list of ordinary prompts. Beside it a single score gets a meaning."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Context, Decimal
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy

from emoe.atomic import atomic
from emoe.errors import EmoeError, about, many
from emoe.scores import Reading

REMEDY = "make it with emoe calibrate"


@dataclass(frozen=True)
class Reference:
    """Belongs to one mixture and one reading, and is compared with scores of no other."""

    uncertainty: list[float]  # ascending
    mixture: str
    reading: Reading  # has a size

    def percentile(self, uncertainty: float) -> float:
        """Percent of the reference that is less uncertain; what is equal counts half."""
        below, upto = bisect_left(self.uncertainty, uncertainty), bisect_right(self.uncertainty, uncertainty)
        return round(50.0 * (below + upto) / len(self.uncertainty), 2)

    def told(self, uncertainty: float) -> dict[str, Any]:
        """What a record says of it."""
        return {"percentile": self.percentile(uncertainty), "reference": self.mark}

    @cached_property
    def mark(self) -> str:
        """Eight digits that tell two references apart."""
        return sha256(repr(self).encode()).hexdigest()[:8]

    def limit(self, percentile: float) -> float | None:
        """The largest uncertainty whose percentile is not above this one; None for 100, which none is above."""
        if not 0 <= percentile <= 100:
            raise EmoeError(f"the percentile is {percentile}; it must lie between 0 and 100")
        for below, value in enumerate(self.uncertainty):
            if self.percentile(value) > percentile:
                if value <= 0:
                    raise EmoeError(
                        f"no limit is so low: of the reference, {many(self.uncertainty.count(value), 'score')} at 0"
                    )
                among = round(100 * below / len(self.uncertainty), 2)  # of what lies between it and the one before
                return self.uncertainty[below - 1] if below and among > percentile else _before(value)
        return self.uncertainty[-1] if percentile < 100 else None

    def check(self, reading: Reading, mixture: str | None = None) -> None:
        """EmoeError unless scores of this reading and mixture compare with it; a size or mixture of None may yet."""
        ours = asdict(self.reading) | {"mixture": self.mixture}
        theirs = asdict(reading) | {"mixture": mixture}
        for key, value in ours.items():
            if theirs[key] not in (value, None):
                other = " (other weights, or another version of emoe)" if key == "mixture" else ""
                raise EmoeError(
                    f"the reference was made with {key} {value}, this run has {theirs[key]}{other}: its scores do not "
                    f"compare; {REMEDY}, with this run's options"
                )


def _before(value: float) -> float:
    """The next smaller number of six digits, as records have them."""
    return float(Context(prec=6).next_minus(Decimal(str(value))))


def save_reference(reference: Reference, path: Path) -> None:
    """As JSON; whole or not at all."""
    told = {"emoe": "reference", "mixture": reference.mixture, **asdict(reference.reading)}
    told["uncertainty"] = reference.uncertainty
    with atomic(path) as new:
        new.write_text(json.dumps(told) + "\n", encoding="utf-8")


def load_reference(path: str | Path) -> Reference:
    """EmoeError for anything that `save_reference` did not write."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or ("it is no JSON" if isinstance(error, ValueError) else error)
        raise EmoeError(f"cannot read the reference {path}: {reason}; {REMEDY}") from error
    try:
        values, mixture = told.pop("uncertainty"), told.pop("mixture")
        if told.pop("emoe") != "reference" or not _ascending(values) or not isinstance(mixture, str):
            raise ValueError
        with about(str(path)):
            reading = Reading(**told)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EmoeError(f"{path} is not a reference; {REMEDY}") from error
    return Reference(values, mixture, reading)


def _ascending(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(type(value) is float for value in values)
        and numpy.isfinite(values).all()
        and all(numpy.diff(values) >= 0)
    )


def quantiles(values: Sequence[float], shares: Sequence[int] = (5, 25, 50, 75, 95)) -> dict[int, float]:
    """Percent -> the value that so many do not exceed."""
    return {share: float(numpy.percentile(values, share, method="inverted_cdf")) for share in shares}
