"""One part: read, embed, write its files, then its record. The whole of an actor's work, and no Ray in it.

worker = PartWorker(job)
outcome = worker.do(part)      # a Done, or a Failed: nothing expected is raised
worker.close()
"""

import asyncio
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

import orjson

from bulk.cutting import read_part
from bulk.job import BundleWay, GatewayWay, Job
from bulk.part_files import file_content
from bulk.plan import NumberedPart, PartRecord, origin_digest, record_name
from bulk.sources import OWN_FOLDER, Folder
from bulk.vectors import AnotherModel, Embedded
from common.texts import InputChanged, Record
from gateway.client.errors import CircuitOpen, ClientError, FingerprintMismatch
from gateway.client.journal import Counts
from gateway.client.retry import RETRIED
from gateway.client.settings import explained

PASSING: tuple[type[ClientError], ...] = (*RETRIED, CircuitOpen)


class Why(IntEnum):
    """Why a part could not be done: exit statuses of `dejavec ingest`."""

    FILE_FAULT = 1
    SETTINGS = 2
    CANNOT_RESUME = 3
    NO_ANSWER = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Failed:
    """What ends the ingestion."""

    why: Why
    message: str


class Embedder(Protocol):
    """A way to vectors."""

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Give everything back."""

    async def embed(self, records: list[Record]) -> Embedded:
        """Vectors of the records."""


class PartWorker:
    """Does parts, one after another, on an event loop of its own; the embedder is opened for the first."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._loop = asyncio.new_event_loop()
        self._embedder: Embedder | None = None
        self._out = Folder(job.out)

    def do(self, part: NumberedPart) -> PartRecord | Failed:
        """The part's record, which is written; or why there is none."""
        try:
            return self._loop.run_until_complete(self._do(part))
        except (InputChanged, FingerprintMismatch, AnotherModel) as error:
            return Failed(Why.CANNOT_RESUME, str(error))
        except PASSING as error:
            return Failed(Why.NO_ANSWER, str(error))
        except ClientError as error:
            way = self._job.way
            return Failed(Why.REFUSED, explained(error, way.api_key if isinstance(way, GatewayWay) else None))
        except OSError as error:
            return Failed(Why.FILE_FAULT, str(error))
        except Exception as error:
            why = _of_the_engine(error)
            if why is None:
                raise
            return Failed(why, str(error))

    def close(self) -> None:
        """Close the embedder and the loop."""
        if self._embedder is not None:
            self._loop.run_until_complete(self._embedder.close())
        self._loop.close()

    async def _do(self, part: NumberedPart) -> PartRecord:
        job = self._job
        form = replace(job.text_form, format=part.source.format)
        records, bad, blank = read_part(part.source.url, part.part, form)
        embedded = await (await self._opened()).embed(records)
        faulty = {one.line for one in embedded.refused}
        records = [record for record in records if record.line not in faulty]
        bad = sorted([*bad, *embedded.refused], key=lambda one: one.line)
        files = {
            f"{part.stem}.{job.out_format}": file_content(
                job.out_format, job.origin, part.source.name, records, embedded.vectors
            )
        }
        if bad:
            entries = [{"file": part.source.name, "line": one.line, "reason": one.reason} for one in bad]
            files[f"{OWN_FOLDER}/{part.stem}.bad.jsonl"] = b"".join(orjson.dumps(entry) + b"\n" for entry in entries)
        for name, content in files.items():
            self._out.write(name, content)
        record = PartRecord(
            number=part.number,
            origin=origin_digest(job.origin),
            counts=Counts().plus(embedded.tiers, bad, blank, embedded.tokens),
            files={name: len(content) for name, content in files.items()},
        )
        self._out.write(record_name(part), record.to_json())
        return record

    async def _opened(self) -> Embedder:
        if self._embedder is None:
            embedder = _embedder(self._job)
            await embedder.open()
            self._embedder = embedder
        return self._embedder


def _embedder(job: Job) -> Embedder:
    if isinstance(job.way, BundleWay):
        from bulk.in_process import BundleEmbedder  # a client alone has no ONNX Runtime

        return BundleEmbedder(job.way, job.origin, job.embed)
    from bulk.through_gateway import GatewayEmbedder  # an actor with a bundle needs no client

    return GatewayEmbedder(job.way, job.origin, job.embed)


def _of_the_engine(error: Exception) -> Why | None:
    """What an error of the engine's packages means here; imported already where one was raised."""
    from engine.bundle import BundleError
    from engine.configuration import ConfigurationError
    from engine.errors import EngineError

    if isinstance(error, BundleError | ConfigurationError):
        return Why.SETTINGS
    if isinstance(error, EngineError):
        return Why.REFUSED
    return None
