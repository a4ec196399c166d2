"""An ingestion over Ray from its options to its last part.

find files ─▶ the plan of an earlier run, checked ─▶ cut what is new ─▶ write the plan ─▶ do the parts without a record
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from bulk.cutting import Cut
from bulk.embed_part import Failed
from bulk.job import BundleWay, GatewayWay, Job, OutFormat
from bulk.plan import NumberedPart, PartRecord, Plan, new_files, origin_digest, read_plan, records_done, with_cuts
from bulk.sources import Folder, SourceFile, find
from common.texts import Format, SourceError, TextForm
from gateway.client.ingest import EmbedOptions
from gateway.client.journal import CannotResume, Counts, Occupied, Origin
from gateway.client.wire import GatewayInfo


@dataclass(frozen=True, slots=True)
class Ingestion:
    """What to ingest, from where to where, which way. `form.format` is not used: each file has its own."""

    source: str
    out: str
    out_format: OutFormat
    format: Format | None
    form: TextForm
    embed: EmbedOptions
    way: GatewayWay | BundleWay
    part_texts: int
    start_over: bool


class Stopped(Exception):
    """A part could not be done."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.why = failed.why


class Workers(Protocol):
    """Who does the work: Ray, or a test."""

    def cut_all(self, files: Sequence[SourceFile], part_texts: int) -> Iterator[tuple[str, Cut | Failed]]:
        """Each file's cut."""

    def do_all(self, parts: Sequence[NumberedPart], job: Job) -> Iterator[PartRecord | Failed]:
        """Each part's outcome."""


class Observer(Protocol):
    """Is called with the progress."""

    def say(self, text: str) -> None:
        """What happens before the first part."""

    def note(self, text: str) -> None:
        """What should stay to be read."""

    def began(self, parts: int, done: Sequence[Counts]) -> None:
        """How many parts there are, and what earlier runs have done."""

    def did(self, counts: Counts) -> None:
        """One part more is done."""


def ingest(ingestion: Ingestion, workers: Workers, observer: Observer) -> Plan:
    """Do what is left; the plan of the complete output.

    Whatever ends it early leaves an output that the same ingestion resumes. Raises CannotResume, Stopped, ClientError,
    BundleError, SourceError, OSError, RayFailed.
    """
    out = Folder(ingestion.out)
    if out.lies_in(ingestion.source):
        raise SourceError("--out lies in SOURCE: what is written would be read as input")
    observer.say("asking for the model")
    origin = _origin(ingestion)
    try:
        with out.locked():
            plan = _planned(ingestion, origin, out, workers, observer)
            job = Job(origin, ingestion.out, ingestion.out_format, ingestion.form, ingestion.embed, ingestion.way)
            _do_what_is_left(plan, job, out, workers, observer)
            plan = replace(plan, complete=True)
            plan.write(out)
            return plan
    except BlockingIOError:
        raise Occupied("another ingestion is writing there: wait until it is done") from None


def _origin(ingestion: Ingestion) -> Origin:
    info = _model_of(ingestion)
    options = {**asdict(ingestion.embed), **asdict(ingestion.form)}
    options |= {
        "format": ingestion.format,
        "output": ingestion.out_format.value,
        "part_texts": ingestion.part_texts,
        "through": "bundle" if isinstance(ingestion.way, BundleWay) else "gateway",
    }
    return Origin(info.model, info.fingerprint, options.pop("dimensions") or info.dimensions, options)


def _model_of(ingestion: Ingestion) -> GatewayInfo:
    if isinstance(ingestion.way, BundleWay):
        from bulk import in_process  # needs the extra `engine`

        return in_process.model_of(ingestion.way, ingestion.embed)
    from bulk import through_gateway

    return asyncio.run(through_gateway.model_of(ingestion.way, ingestion.embed.model))


def _planned(ingestion: Ingestion, origin: Origin, out: Folder, workers: Workers, observer: Observer) -> Plan:
    """The plan, written; with `start_over` a new one, once what the old one's names hold is removed."""
    observer.say("looking for files")
    found, left_out = find(ingestion.source, ingestion.format)
    if left_out:
        observer.note(f"left out, neither JSON Lines nor Parquet: {', '.join(left_out[:3])}, {len(left_out):,} in all")
    if ingestion.start_over:
        _clear(out)
    before = read_plan(out)
    try:
        return _extended(before, origin, found, ingestion.part_texts, out, workers, observer)
    except CannotResume:
        if before is None or not _has_no_vectors(before, out):
            raise
    _clear(out)
    return _extended(None, origin, found, ingestion.part_texts, out, workers, observer)


def _has_no_vectors(plan: Plan, out: Folder) -> bool:
    """Whether it is complete without one, so that it binds nobody to its input and options."""
    return plan.complete and not any(record.counts.rows for record in records_done(plan, out).values())


def _extended(
    before: Plan | None,
    origin: Origin,
    found: list[SourceFile],
    part_texts: int,
    out: Folder,
    workers: Workers,
    observer: Observer,
) -> Plan:
    """The plan with what is new in `found`, written. Raises CannotResume where it is of something else."""
    if before is not None:
        before.origin.require(origin)
    plan = before or Plan(origin)
    added, doubtful = new_files(plan, found)
    cuts: dict[str, Cut] = {}
    for name, cut in workers.cut_all([*added, *doubtful], part_texts):
        if isinstance(cut, Failed):
            raise Stopped(cut)
        cuts[name] = cut
        observer.say(f"cutting files into parts, {len(cuts):,} of {len(added) + len(doubtful):,}")
    if added or doubtful or before is None:
        plan = with_cuts(plan, cuts, added, doubtful)
        plan.write(out)
    return plan


def _clear(out: Folder) -> None:
    """Remove what an earlier ingestion has written, and nothing else."""
    names = [name for name in out.sizes() if name.startswith(("part-", "_dejavec/part-", "_dejavec/plan.json"))]
    out.clear(sorted(names, reverse=True))  # parts before the plan, so that a kill leaves what --start-over clears


def _do_what_is_left(plan: Plan, job: Job, out: Folder, workers: Workers, observer: Observer) -> None:
    done = records_done(plan, out)
    parts = list(plan.parts())
    observer.began(len(parts), [record.counts for record in done.values()])
    left = [part for part in parts if part.number not in done]
    finished = set(done)
    for outcome in workers.do_all(left, job):
        if isinstance(outcome, Failed):
            raise Stopped(outcome)
        finished.add(outcome.number)
        observer.did(outcome.counts)
    missing = len(parts) - len(finished)
    if missing:
        raise CannotResume(f"{missing:,} parts came back without a record; run it again")
    assert origin_digest(plan.origin) == origin_digest(job.origin)
