"""Scoring a list with a progress bar, whatever becomes of the records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tqdm import tqdm

from emoe.commands.options import texts_of
from emoe.records import Record

if TYPE_CHECKING:
    from emoe.pipeline import EMoE
    from emoe.scores import Reading


def scored(
    model: EMoE, rows: list[Record], reading: Reading, batch_size: int | None, done: int = 0
) -> Iterator[list[Record]]:
    """Records of the rows after the first `done`, a batch at a time: each a row and what its score consists of."""
    todo = rows[done:]
    with tqdm(total=len(rows), initial=done, unit="prompt", disable=not sys.stderr.isatty()) as bar:
        for batch in model.stream(*texts_of(todo), reading, batch_size):
            records = batch.records()
            yield [row | record for row, record in zip(todo, records, strict=False)]
            todo = todo[len(records) :]
            bar.update(len(records))
