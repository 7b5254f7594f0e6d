"""Scoring a list with a progress bar: its records one batch after the other, or all of them from a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emoe.errors import EmoeError
from emoe.progress import progress
from emoe.records import USUAL, Record, RecordFile, texts_of

if TYPE_CHECKING:
    from emoe.pipeline import EMoE
    from emoe.scores import Reading


def scored(
    model: EMoE, rows: list[Record], reading: Reading, batch_size: int | None, done: int = 0
) -> Iterator[list[Record]]:
    """Records of the rows after the first `done`, a batch at a time: each a row and what its score consists of."""
    todo = rows[done:]
    with progress(len(rows), "prompt", done) as bar:
        for batch in model.stream(*texts_of(todo), reading, batch_size):
            records = batch.records()
            yield [row | record for row, record in zip(todo, records, strict=False)]
            todo = todo[len(records) :]
            bar.update(len(records))


def kept_scores(model: EMoE, rows: list[Record], reading: Reading, batch_size: int | None, path: Path) -> list[Record]:
    """Records of all rows, kept in a file, where a run that was cut short goes on."""
    from emoe.pipeline import SCORED

    file = RecordFile(path, rows, USUAL)
    file.check(asdict(reading) | {"mixture": model.mixture})
    done = file.go_on(model.batch_size(batch_size, SCORED))
    for records in scored(model, rows, reading, batch_size, done):
        file.write(records)
    records = RecordFile(path, rows, USUAL).records
    if reading.seeds > 1 and not all("by_seed" in record for record in records):
        raise EmoeError(f"{path} is of an earlier version of emoe, without the noises one by one; name another folder")
    return records
