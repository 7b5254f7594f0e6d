"""Lists beyond one machine: Ray Data reads Parquet, scores it with one model per GPU (or a CPU slot), writes Parquet.

Ray does what is not about prompts: scheduling, retries, back-pressure, placement. It also keeps the ids whose records
are written, in the folder's `_done`, and so leaves them out when a run that was cut short is started again.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised

import pyarrow
import pyarrow.dataset
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from emoe.config import Weights
from emoe.errors import EmoeError, many
from emoe.pipeline import EMoE
from emoe.prompts import COLUMNS, read_prompt, warn_of_others
from emoe.records import Record
from emoe.scores import Reading

SPARE = 2  # CPUs for Ray's own tasks, without which models that take all the others would wait for input for ever
LOOKED_AT = 100  # records of every part, before a run goes on
LARGEST_BLOCK = {"GPU": 8192, "CPU": 64}  # prompts that are written, and lost to a kill, together


@dataclass(frozen=True)
class Job:
    """What every worker is told."""

    weights: Weights
    reading: Reading
    negative: str
    device: str
    dtype: str
    batch_size: int | None
    earlier: Record | None = None  # one of the records that are there already


class Worker:
    """One model, loaded once: a table of prompts -> a table of their records."""

    def __init__(self, job: Job):
        self.job = job

    @cached_property
    def model(self) -> EMoE:
        """With the first table, not before: Ray tries what fails sooner again and again."""
        return EMoE.from_weights(self.job.weights, device=self.job.device, dtype=self.job.dtype)

    @cached_property
    def reading(self) -> Reading:
        reading = self.model.at_own_size(self.job.reading)
        _check_same(self.job.earlier, asdict(reading) | {"mixture": self.model.mixture})
        return reading

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        rows = [self._row(row) for row in table.to_pylist()]
        prompts, negatives = ([row[key] for row in rows] for key in ("prompt", "negative_prompt"))
        batches = self.model.stream(prompts, negatives, self.reading, self.job.batch_size)
        found = [record for batch in batches for record in batch.records()]
        records = [row | record for row, record in zip(rows, found, strict=True)]
        return pyarrow.Table.from_pylist(records, schema(table.schema.field("id").type, self.reading))

    def _row(self, row: dict[str, Any]) -> Record:
        told = read_prompt(row, f"prompt {row['id']!r}").row(self.job.negative)
        if "id" not in told:
            raise EmoeError(f"the prompt {row['prompt']!r:.60} has no id; with --ray, every prompt has one of its own")
        return told


TEXT, REAL, INTEGER = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
SETTINGS = dict.fromkeys(("seed", "seeds", "timestep", "size"), INTEGER)
SETTINGS |= dict.fromkeys(("read_out", "estimator", "mixture"), TEXT)


def schema(id_type: pyarrow.DataType, reading: Reading) -> pyarrow.Schema:
    """A record's columns, the same in every file; null where a prompt lacks them."""
    columns = {"id": id_type, "group": TEXT, "group_size": REAL, "reference_text": TEXT, "image": TEXT}
    columns |= {"prompt": TEXT, "negative_prompt": TEXT, "eu": REAL, "uncertainty": REAL, "relative": REAL}
    columns |= {"aleatoric": REAL, "by_seed": pyarrow.list_(REAL)} if reading.seeds > 1 else {}
    return pyarrow.schema(columns | {"weights": pyarrow.list_(REAL), "truncated": pyarrow.bool_()} | SETTINGS)


def score(prompts: str, out: str, job: Job, address: str | None = None) -> int:
    """Score the Parquet of `prompts` (a file or folder, here or in an object store) into the folder `out`.

    Every prompt has an id of its own. address: of a Ray cluster; None: what RAY_ADDRESS names, else this machine alone.
    Returns how many records there are. EmoeError, in one line.
    """
    prompts, out = _absolute(prompts), _absolute(out)
    if "://" not in prompts and not os.path.exists(prompts):
        raise EmoeError(f"there is no {prompts}")
    if os.path.isfile(prompts) and not prompts.endswith(".parquet"):
        raise EmoeError(f"{prompts} is not Parquet, which --ray takes alone; convert it, or leave --ray out")
    with _in_one_line():
        listed = pyarrow.dataset.dataset(prompts, format="parquet")
    warn_of_others(listed.schema.names, prompts)
    with _in_one_line():
        job = replace(job, weights=replace(job.weights, path=job.weights.path.absolute()), earlier=_one_of(out))
        _check_same(job.earlier, {key: value for key, value in asdict(job.reading).items() if value is not None})
        names, total = listed.schema.names, listed.count_rows()
        for name in ("id", "prompt"):
            if name not in names:
                raise EmoeError(f"{prompts} has no column {name!r}; with --ray, every prompt has an id of its own")
        if not total:
            raise EmoeError(f"{prompts} holds no prompts")
        _check_prompts(listed, out, job.negative)
        _connect(address)
        _run(prompts, [name for name in COLUMNS if name in names], out, job, total)
        _check(out, total)
    return total


def _connect(address: str | None) -> None:
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address := address or os.environ.get("RAY_ADDRESS"):
        _reach(address)
    else:
        address, told = "local", told | {"num_cpus": (os.cpu_count() or 1) + SPARE, "include_dashboard": False}
    stderr = os.dup(2)  # where Ray's half in C++ says which log level it was told
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        ray.init(address, **told)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _reach(address: str) -> None:
    """EmoeError where nobody answers, which Ray would wait for without a word."""
    if named := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d{1,5})", address):
        try:
            socket.create_connection((named[1], int(named[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise EmoeError(f"no Ray cluster answers at {address} ({why}); start one, or name none") from error


def _run(prompts: str, columns: list[str], out: str, job: Job, total: int) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.checkpoint_config = CheckpointConfig("id", f"{out}/_done", delete_checkpoint_on_success=False)
    there = ray.cluster_resources()
    on = "GPU" if job.device in ("auto", "cuda") and there.get("GPU") else "CPU"
    slots = max(1, int(there[on]) - (SPARE if on == "CPU" else 0))
    block = max(1, min(total // (4 * slots), LARGEST_BLOCK[on]))
    listed = ray.data.read_parquet(prompts, columns=columns, num_cpus=0).repartition(target_num_rows_per_block=block)
    scored = listed.map_batches(
        Worker,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(slots, -(-total // block))),
        **{f"num_{on.lower()}s": 1},
    )
    scored.write_parquet(out, ray_remote_args={"num_cpus": 0}, compression="zstd")


def _one_of(out: str) -> Record | None:
    """What a record that is there already says of its settings."""
    for part in _parts(out, pyarrow.schema(SETTINGS)):
        for record in part.head(1).to_pylist():
            return record
    return None


def _parts(out: str, columns: pyarrow.Schema) -> Iterator[pyarrow.dataset.Fragment]:
    """The files of records that are there, but for those that a kill has cut short; Ray cleans them away."""
    try:
        parts = pyarrow.dataset.dataset(out, schema=columns, format="parquet").get_fragments()
    except FileNotFoundError:
        return
    for part in parts:
        with suppress(pyarrow.ArrowInvalid):
            part.ensure_complete_metadata()
            yield part


def _check_prompts(listed: pyarrow.dataset.Dataset, out: str, negative: str) -> None:
    """EmoeError if an id stands for another prompt than in a record that is there. Looks at some of every part."""
    told = pyarrow.schema({"id": listed.schema.field("id").type, "prompt": TEXT, "negative_prompt": TEXT})
    records: dict[Any, Record] = {}
    for part in _parts(out, told):
        records |= {record["id"]: record for record in part.head(LOOKED_AT).to_pylist()}
    if not records:  # a new folder: the list need not be read for it
        return
    ids = pyarrow.array(list(records), told.field("id").type)
    names = [name for name in COLUMNS if name in listed.schema.names]
    for row in listed.to_table(columns=names, filter=pyarrow.dataset.field("id").isin(ids)).to_pylist():
        now, earlier = read_prompt(row, f"prompt {row['id']!r}").row(negative), records[row["id"]]
        for key in ("prompt", "negative_prompt"):
            if now[key] != earlier[key]:
                raise EmoeError(f"{out} holds a record of prompt {row['id']!r} with another {key}; name another --out")


def _check_same(earlier: Record | None, told: Record) -> None:
    for key, value in told.items():
        if earlier and earlier[key] != value:
            raise EmoeError(f"--out holds records whose {key} is {earlier[key]}, this run's is {value}; name another")


def _check(out: str, total: int) -> None:
    """Every prompt has one record, all of one mixture."""
    there = pyarrow.dataset.dataset(out, schema=pyarrow.schema(SETTINGS), format="parquet")
    if (count := there.count_rows()) != total:
        why = "some ids come twice; give each its own" if count < total else "other lists' too; name another --out"
        raise EmoeError(f"{out} holds {many(count, 'record')} of {many(total, 'prompt')}: {why}")
    others = pyarrow.dataset.field("mixture") != _one_of(out)["mixture"]
    if count := there.count_rows(filter=others):
        raise EmoeError(f"{out} holds {many(count, 'record')} of another mixture: machines that hold different weights")


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What a worker says of the input, of which Ray passes on the text; or what Ray says, in short."""
    logging.disable(logging.CRITICAL)  # Ray logs what it raises; its own files have the rest
    try:
        yield
    except (RayError, OSError, pyarrow.ArrowException) as error:
        ours = re.findall(rf"{EmoeError.__module__}\.EmoeError: (.*)", str(error))
        first = next(iter(str(error).splitlines()), "")
        raise EmoeError(ours[-1] if ours else f"cannot go on: {type(error).__name__}: {first}") from error
    finally:
        DataContext.get_current().checkpoint_config = None
        ray.shutdown()
        logging.disable(logging.NOTSET)


def _absolute(path: str) -> str:
    """Workers may run in other folders; addresses of object stores are absolute."""
    return path if "://" in path else os.path.abspath(path)
