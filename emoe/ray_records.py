"""The folder of Parquet that a run on Ray fills: which records are there, and are they this run's?"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import suppress
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.dataset

from emoe.errors import EmoeError, many
from emoe.prompts import COLUMNS, read_prompt
from emoe.records import Record
from emoe.scores import Reading

LOOKED_AT = 100  # records of every part, before a run goes on
MOST_IDS = 10_000_000  # that are compared with one another, in some hundred MB
TEXT, REAL, INTEGER = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
SETTINGS = dict.fromkeys(("seed", "seeds", "timestep", "size"), INTEGER)
SETTINGS |= dict.fromkeys(("read_out", "estimator", "mixture"), TEXT)


def schema(id_type: pyarrow.DataType, reading: Reading) -> pyarrow.Schema:
    """A record's columns, the same in every file; null where a prompt lacks them."""
    columns = {"id": id_type, "group": TEXT, "group_size": REAL, "reference_text": TEXT, "image": TEXT}
    columns |= {"prompt": TEXT, "negative_prompt": TEXT, "eu": REAL, "uncertainty": REAL, "relative": REAL}
    columns |= {"aleatoric": REAL, "by_seed": pyarrow.list_(REAL)} if reading.seeds > 1 else {}
    return pyarrow.schema(columns | {"weights": pyarrow.list_(REAL), "truncated": pyarrow.bool_()} | SETTINGS)


def count(out: str, known: dict[str, int] | None = None) -> int:
    """How many records are there. known: file -> how many, of those counted before; gets the others."""
    known = {} if known is None else known
    for part in _parts(out, pyarrow.schema(SETTINGS), but=known):
        known[part.path] = part.count_rows()
    return sum(known.values())


def one_of(out: str) -> Record | None:
    """What a record that is there already says of its settings. EmoeError for Parquet that holds no records."""
    for part in _parts(out, pyarrow.schema(SETTINGS)):
        if missing := SETTINGS.keys() - set(part.physical_schema.names):
            raise EmoeError(f"{out} holds Parquet without {', '.join(sorted(missing))}, no scores; name another --out")
        for record in part.head(1).to_pylist():
            return record
    return None


def check_same(earlier: Record | None, told: Record) -> None:
    """EmoeError unless a record that is there was made with these settings."""
    for key, value in told.items():
        if earlier and earlier[key] != value:
            raise EmoeError(f"--out holds records whose {key} is {earlier[key]}, this run's is {value}; name another")


def check_ids(listed: pyarrow.dataset.Dataset, total: int) -> None:
    """EmoeError if two prompts have one id."""
    if total <= MOST_IDS:
        ids = listed.to_table(columns=["id"])["id"]
        if twice := total - pyarrow.compute.count_distinct(ids, mode="all").as_py():
            raise EmoeError(f"{many(twice, 'prompt')} of {total} have an id that another one has; give each its own")


def check_list(listed: pyarrow.dataset.Dataset, out: str, negative: str) -> None:
    """EmoeError if a record that is there is of no prompt of this list. Looks at some of every part."""
    told = pyarrow.schema({"id": listed.schema.field("id").type, "prompt": TEXT, "negative_prompt": TEXT})
    records: dict[Any, Record] = {}
    for part in _parts(out, told):
        records |= {record["id"]: record for record in part.head(LOOKED_AT).to_pylist()}
    if not records:  # a new folder: the list need not be read for it
        return
    ids = pyarrow.array(list(records), told.field("id").type)
    names, other = [name for name in COLUMNS if name in listed.schema.names], "name another --out"
    listed_too = set()
    for row in listed.to_table(columns=names, filter=pyarrow.dataset.field("id").isin(ids)).to_pylist():
        now, earlier = read_prompt(row, f"prompt {row['id']!r}").row(negative), records[row["id"]]
        for key in ("prompt", "negative_prompt"):
            if now[key] != earlier[key]:
                raise EmoeError(f"{out} holds a record of prompt {row['id']!r} with another {key}; {other}")
        listed_too.add(row["id"])
    for id in records.keys() - listed_too:
        raise EmoeError(f"{out} holds a record of prompt {id!r}, which is not in this list; {other}")


def check_whole(out: str, total: int) -> None:
    """EmoeError unless every prompt has one record, all of one mixture."""
    there = pyarrow.dataset.dataset(out, schema=pyarrow.schema(SETTINGS), format="parquet")
    if (found := there.count_rows()) != total:
        why = "some ids come twice; give each its own" if found < total else "other lists' too; name another --out"
        raise EmoeError(f"{out} holds {many(found, 'record')} of {many(total, 'prompt')}: {why}")
    others = pyarrow.dataset.field("mixture") != one_of(out)["mixture"]
    if found := there.count_rows(filter=others):
        raise EmoeError(f"{out} holds {many(found, 'record')} of another mixture: machines that hold different weights")


def _parts(out: str, columns: pyarrow.Schema, but: Container[str] = ()) -> Iterator[pyarrow.dataset.Fragment]:
    """The files of records that are there, but for those that a kill has cut short; Ray cleans them away."""
    try:
        parts = pyarrow.dataset.dataset(out, schema=columns, format="parquet").get_fragments()
    except FileNotFoundError:
        return
    for part in (part for part in parts if part.path not in but):
        with suppress(pyarrow.ArrowInvalid):
            part.ensure_complete_metadata()
            yield part
