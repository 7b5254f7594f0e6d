"""Lists beyond one machine: Ray Data reads Parquet, scores it with one model per GPU (or a CPU slot), writes Parquet.

Ray does what is not about prompts: scheduling, retries, back-pressure, placement. It also keeps the ids whose records
are written, in the folder's `_done`, and so leaves them out when a run that was cut short is started again.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised

import pyarrow
import pyarrow.dataset
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from emoe.atomic import make_folder
from emoe.config import Weights
from emoe.errors import EmoeError
from emoe.exclusive import exclusive
from emoe.pipeline import EMoE
from emoe.progress import EVERY, Lines
from emoe.prompts import COLUMNS, read_prompt, warn_of_others
from emoe.ray_records import check_list, check_same, check_whole, count, one_of, schema
from emoe.records import Record
from emoe.scores import Reading

# CPUs of a node that no model gets, for Ray's own tasks: models that held them all would wait for input for ever.
SPARE = 2
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
        check_same(self.job.earlier, asdict(reading) | {"mixture": self.model.mixture})
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


class Scored(NamedTuple):
    records: int  # in the folder
    already: bool  # whether all of them were there before


def score(prompts: str, out: str, job: Job, address: str | None = None) -> Scored:
    """Score the Parquet of `prompts` (a file or folder, here or in an object store) into the folder `out`.

    Every prompt has an id of its own. address: of a Ray cluster; None: what RAY_ADDRESS names, else this machine alone.
    EmoeError, in one line; what is there already is held against this run before anything is written.
    """
    prompts, out = _absolute(prompts), _absolute(out)
    if "://" not in prompts and not os.path.exists(prompts):
        raise EmoeError(f"there is no {prompts}")
    if os.path.isfile(prompts) and not prompts.endswith(".parquet"):
        raise EmoeError(f"{prompts} is not Parquet, which --ray takes alone; convert it, or leave --ray out")
    with _in_one_line():
        listed = pyarrow.dataset.dataset(prompts, format="parquet")
        if not listed.files:
            raise EmoeError(f"{prompts} holds no Parquet; name another with --prompts")
    warn_of_others(listed.schema.names, prompts)
    if "://" not in out:
        make_folder(Path(out).parent)
    with nullcontext() if "://" in out else exclusive(Path(out), folder=True), _in_one_line():
        return _score(prompts, listed, out, job, address or os.environ.get("RAY_ADDRESS"))


def _score(prompts: str, listed: pyarrow.dataset.Dataset, out: str, job: Job, address: str | None) -> Scored:
    job = replace(job, weights=replace(job.weights, path=job.weights.path.absolute()), earlier=one_of(out))
    check_same(job.earlier, {key: value for key, value in asdict(job.reading).items() if value is not None})
    names, total = listed.schema.names, listed.count_rows()
    for name in ("id", "prompt"):
        if name not in names:
            raise EmoeError(f"{prompts} has no column {name!r}; with --ray, every prompt has an id of its own")
    if not total:
        raise EmoeError(f"{prompts} holds no prompts")
    if already := check_list(listed, out, job.negative):
        _check_mixture(job, address)
    else:
        _connect(address)
        with _told(out, total):
            _run(prompts, [name for name in COLUMNS if name in names], out, job, total)
    check_whole(out, total)
    return Scored(total, already)


def _check_mixture(job: Job, address: str | None) -> None:
    """EmoeError unless records that are there are this mixture's. Asked where models run: their dtype depends on it."""
    if not address:
        _ = Worker(job).reading
        return
    _connect(address)
    on, _ = _slots(job.device)
    ray.get(ray.remote(**{f"num_{on.lower()}s": 1})(lambda: Worker(job).reading).remote())


def _connect(address: str | None) -> None:
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        _reach(address)
    else:
        address, told = "local", told | {"num_cpus": (os.cpu_count() or 1) + SPARE, "include_dashboard": False}
    stderr = os.dup(2)  # where Ray's half in C++ says which log level it was told
    stop = signal.getsignal(signal.SIGTERM)  # which Ray takes for itself
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        ray.init(address, **told)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        if threading.current_thread() is threading.main_thread():  # no other may set it
            signal.signal(signal.SIGTERM, stop)


def _reach(address: str) -> None:
    """EmoeError where nobody answers, which Ray would wait for without a word."""
    if named := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d{1,5})", address):
        try:
            socket.create_connection((named[1], int(named[2])), timeout=10).close()
        except (OSError, OverflowError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise EmoeError(f"no Ray cluster answers at {address} ({why}); start one, or name none") from error


def _slots(device: str) -> tuple[str, int]:
    """What a model takes, "GPU" or "CPU", and how many models there is room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and device in ("auto", "cuda"):
        return "GPU", gpus
    return "CPU", max(1, sum(max(0, int(node.get("CPU", 0)) - SPARE) for node in nodes))


def _run(prompts: str, columns: list[str], out: str, job: Job, total: int) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.checkpoint_config = CheckpointConfig("id", f"{out}/_done", delete_checkpoint_on_success=False)
    on, slots = _slots(job.device)
    block = max(1, min(total // (4 * slots), LARGEST_BLOCK[on]))
    listed = ray.data.read_parquet(prompts, columns=columns, num_cpus=0).repartition(target_num_rows_per_block=block)
    scored = listed.map_batches(
        Worker,
        fn_constructor_args=(job,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(slots, -(-total // block))),
        scheduling_strategy="SPREAD",  # else one node may get more models than it has room for
        **{f"num_{on.lower()}s": 1},
    )
    scored.write_parquet(out, ray_remote_args={"num_cpus": 0}, compression="zstd")


@contextmanager
def _told(out: str, total: int) -> Iterator[None]:
    """How many records are written, a line a minute, meanwhile; on a terminal Ray has bars."""
    if sys.stderr.isatty():
        yield
        return
    known, over = {}, threading.Event()
    lines = Lines(total, "prompt", count(out, known))

    def watch() -> None:
        while not over.wait(EVERY):
            with suppress(OSError):  # a file that Ray clears away meanwhile; the next minute tells
                lines.n = count(out, known)
                lines.refresh()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What a worker says of the input, of which Ray passes on the text; or what Ray says, in short."""
    logging.disable(logging.CRITICAL)  # Ray logs what it raises; its own files have the rest
    try:
        with warnings.catch_warnings(action="ignore"):
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
