"""Ray Data's part of an ingestion: files are cut by tasks, parts are done by a pool of actors. The only import of Ray.

A row of the data set is one part's description, and one block, and what comes back of it is its record. Texts and
vectors never enter Ray's object store: a part is read, embedded and written by one call of one actor, so there is
nothing to spill and nothing to keep in order, and what is in memory is bounded by the parts that are being done.
"""

import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import ray
import ray.data

from bulk.cutting import Cut, cut_file
from bulk.embed_part import Failed, PartWorker, Why
from bulk.job import Job
from bulk.plan import NumberedPart, PartRecord
from bulk.sources import SourceFile

OBJECT_STORE_BYTES: Final = 128 << 20  # of a Ray that is started here; descriptions and records are small
AHEAD: Final = 2  # parts given to an actor, the one it does included
# An actor that is lost, as when its memory is short or its node goes, is started again, though not for ever, and its
# part tried again. Tries are not counted: until Ray sees that a node is gone, half a minute, each second uses one up.
RESTARTS: Final = {"max_restarts": 20, "max_task_retries": -1}


class RayFailed(Exception):
    """Ray did not start, or gave up."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Where and how wide. `address` None: a Ray of this run's own, on this machine. `actors` None: as many as fit."""

    address: str | None
    actors: int | None
    actor_cpus: int


@contextmanager
def connected(pool: Pool) -> Iterator[None]:
    """Ray, for as long as this lasts; one that this process has started before is used and left as it is.

    Raises RayFailed.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what runs here is nobody else's business
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if pool.address is None:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address=pool.address or "local", **options)
    except Exception as error:  # bare Exception, ConnectionError, RuntimeError, ValueError
        raise RayFailed(f"Ray did not start: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def cut_all(files: Sequence[SourceFile], part_texts: int) -> Iterator[tuple[str, Cut | Failed]]:
    """Each file's name and its cut, in any order; a task reads each file once. Raises RayFailed."""
    if not files:
        return
    rows = ray.data.from_items([{"file": pickle.dumps(file)} for file in files], override_num_blocks=len(files))
    cuts = rows.map_batches(_cut, batch_size=1, fn_kwargs={"part_texts": part_texts})
    yield from _results(cuts, "cut")


def do_all(parts: Sequence[NumberedPart], job: Job, pool: Pool) -> Iterator[PartRecord | Failed]:
    """The outcome of each part, in any order. Raises RayFailed."""
    if not parts:
        return
    rows = ray.data.from_items([{"part": pickle.dumps(part)} for part in parts], override_num_blocks=len(parts))
    compute = ray.data.ActorPoolStrategy(size=min(_actors(pool), len(parts)), max_tasks_in_flight_per_actor=AHEAD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray_remote_args_fn goes in 2.64, and nothing else takes RESTARTS before
        outcomes = rows.map_batches(
            _Actor,
            batch_size=1,
            compute=compute,
            num_cpus=pool.actor_cpus,
            fn_constructor_kwargs={"job": job},
            ray_remote_args_fn=lambda: dict(RESTARTS),
        )
    yield from _results(outcomes, "outcome")


def _actors(pool: Pool) -> int:
    """Raises RayFailed where no Ray of this run's own could ever hold them: they would be waited for."""
    cpus = int(ray.cluster_resources().get("CPU", 0))
    fitting = max(cpus // pool.actor_cpus, 1)
    if pool.address is None and (pool.actors or 1) * pool.actor_cpus > cpus:
        raise RayFailed(
            f"--actors {pool.actors or 1} of --actor-cpus {pool.actor_cpus} need more than this machine's {cpus} CPUs"
        )
    return pool.actors or fitting


class _Actor:
    """What Ray keeps alive for many parts."""

    def __init__(self, job: Job) -> None:
        self._worker = PartWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"outcome": _column([self._worker.do(pickle.loads(part)) for part in batch["part"]])}


def _cut(batch: dict[str, Any], part_texts: int) -> dict[str, Any]:
    return {"cut": _column([_cut_one(pickle.loads(file), part_texts) for file in batch["file"]])}


def _cut_one(file: SourceFile, part_texts: int) -> tuple[str, Cut | Failed]:
    try:
        return file.name, cut_file(file, part_texts)
    except OSError as error:
        return file.name, Failed(Why.FILE_FAULT, str(error))


def _column(values: Sequence[object]) -> Any:
    """Pickled, since a column of objects would have to have a type of Arrow's."""
    column = np.empty(len(values), dtype=object)
    column[:] = [pickle.dumps(value) for value in values]
    return column


def _results(rows: Any, column: str) -> Iterator[Any]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row[column])
    except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as error:
        raise RayFailed(f"Ray gave up: {_last_line(error)}") from None


def _last_line(error: Exception) -> str:
    """Of an error that holds a worker's whole trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
