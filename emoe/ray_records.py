"""The folder of Parquet that a run on Ray fills: which records are there, and are they this run's?"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import pyarrow
import pyarrow.dataset
from pyarrow.compute import count_distinct, invert, is_in
from pyarrow.types import is_integer

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


def check_list(listed: pyarrow.dataset.Dataset, out: str, negative: str) -> bool:
    """Whether every prompt has its record. EmoeError if two have one id, or a record that is there is of no prompt.

    Ids are held against one another, and some records of every part against their prompts; of a list of more than
    MOST_IDS, the ids of these records alone, and it is False: Ray knows what is left.
    """
    id_type = listed.schema.field("id").type
    ids = listed.to_table(columns=["id"])["id"].combine_chunks() if listed.count_rows() <= MOST_IDS else None
    if ids is not None and (twice := len(ids) - _distinct(ids)):
        raise EmoeError(f"{many(twice, 'prompt')} of {len(ids)} have an id that another one has; give each its own")
    there, records = _there(out, id_type, every=ids is not None)
    known = _listed(listed, there, ["id"])["id"].combine_chunks() if ids is None else ids
    for strange in there.filter(invert(is_in(there, known))):
        raise EmoeError(
            f"{out} holds a record of prompt {strange.as_py()!r}, which is not in this list; name another --out"
        )
    names = [name for name in COLUMNS if name in listed.schema.names]
    for row in _listed(listed, pyarrow.array(list(records), id_type), names).to_pylist():
        now, earlier = read_prompt(row, f"prompt {row['id']!r}").row(negative), records[row["id"]]
        for key in ("prompt", "negative_prompt"):
            if now[key] != earlier[key]:
                raise EmoeError(f"{out} holds a record of prompt {row['id']!r} with another {key}; name another --out")
    return ids is not None and _distinct(there) == len(ids)


def _there(out: str, id_type: pyarrow.DataType, every: bool) -> tuple[pyarrow.Array, dict[Any, Record]]:
    """Ids of the records that are there, and some of every part's records by id.  every: of all, or of these alone."""
    told = pyarrow.schema({"id": id_type, "prompt": TEXT, "negative_prompt": TEXT})
    ids, records = [pyarrow.array([], id_type)], {}
    for part in _parts(out, told):
        if is_integer(part.physical_schema.field("id").type) != is_integer(id_type):
            raise EmoeError(f"{out} holds ids of another type than the list's, {id_type}; name another --out")
        looked_at = part.scanner(schema=told).head(LOOKED_AT)
        records |= {record["id"]: record for record in looked_at.to_pylist()}
        ids += (part.to_table(schema=told, columns=["id"]) if every else looked_at)["id"].chunks
    return pyarrow.concat_arrays(ids), records


def _distinct(ids: pyarrow.Array) -> int:
    return count_distinct(ids, mode="all").as_py()


def _listed(listed: pyarrow.dataset.Dataset, ids: pyarrow.Array, names: list[str]) -> pyarrow.Table:
    """What a list says of some prompts."""
    return listed.to_table(columns=names, filter=pyarrow.dataset.field("id").isin(ids))


def check_whole(out: str, total: int) -> None:
    """EmoeError unless every prompt has one record, all of one mixture."""
    if (found := count(out)) != total:
        why = "a file in there is damaged, or ids come twice" if found < total else "name another --out"
        raise EmoeError(f"{out} holds {many(found, 'record')} of {many(total, 'prompt')}: {why}")
    others = pyarrow.dataset.field("mixture") != one_of(out)["mixture"]
    if found := sum(part.count_rows(filter=others) for part in _parts(out, pyarrow.schema(SETTINGS))):
        raise EmoeError(f"{out} holds {many(found, 'record')} of another mixture: machines that hold different weights")


def _parts(out: str, columns: pyarrow.Schema, but: Container[str] = ()) -> Iterator[pyarrow.dataset.Fragment]:
    """The files of records that are there, but for those that a kill has cut short; Ray cleans them away."""
    try:
        parts = pyarrow.dataset.dataset(out, schema=columns, format="parquet").get_fragments()
    except FileNotFoundError:
        return
    for part in (part for part in parts if part.path not in but):
        try:
            part.ensure_complete_metadata()
        except pyarrow.ArrowInvalid:
            continue
        yield part
