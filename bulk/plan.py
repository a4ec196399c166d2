"""The plan of an ingestion, `_dejavec/plan.json` in its output folder, and the records of the parts that are done.

The plan has what the vectors are of (model, fingerprint, options), the input files with their hashes, and where each is
cut. It is written before the first part and replaced whole when files are added; a part keeps its number for ever. A
part is done once `_dejavec/part-NNNNNN.json`, its record, is there, names this plan's origin, and the files it names
have the sizes it names; everything else is done again.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import orjson

from bulk.cutting import Cut, Part
from bulk.sources import OWN_FOLDER, Folder, SourceFile
from common.texts import Format
from gateway.client.journal import CannotResume, Counts, Origin

FORMAT: Final = 1
PLAN: Final = f"{OWN_FOLDER}/plan.json"
MAX_PARTS: Final = 200_000


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """An input file as it was when it was cut."""

    source: SourceFile
    cut: Cut


@dataclass(frozen=True, slots=True)
class NumberedPart:
    """A part to do: its number in the plan, and its file."""

    number: int
    source: SourceFile
    part: Part

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return f"part-{self.number:06d}"


@dataclass(frozen=True, slots=True)
class PartRecord:
    """A part that is done. `files`: name below the output folder to bytes. `origin`: the plan's origin, hashed."""

    number: int
    origin: str
    counts: Counts
    files: dict[str, int]

    def to_json(self) -> bytes:
        """The record as its file's content."""
        return orjson.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Plan:
    """See above."""

    origin: Origin
    files: list[PlannedFile] = field(default_factory=list)
    complete: bool = False

    def parts(self) -> Iterator[NumberedPart]:
        """All parts in the order of their numbers."""
        number = 0
        for planned in self.files:
            for part in planned.cut.parts:
                yield NumberedPart(number, planned.source, part)
                number += 1

    def write(self, out: Folder) -> None:
        """Raises OSError."""
        out.write(PLAN, orjson.dumps({"format": FORMAT, **asdict(self)}) + b"\n")


def read_plan(out: Folder) -> Plan | None:
    """The plan of an earlier run; None where nothing is there. Raises CannotResume, OSError."""
    content = out.read(PLAN)
    if content is None:
        if any(name.startswith("part-") for name in out.sizes()):
            raise CannotResume("the output folder has parts, and no plan records how they were made")
        return None
    try:
        entries = orjson.loads(content)
        if entries["format"] != FORMAT:
            raise CannotResume("the plan was written by another version; start over")
        return Plan(Origin(**entries["origin"]), [_planned(one) for one in entries["files"]], entries["complete"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise CannotResume("the plan is damaged; start over") from None


def new_files(plan: Plan, found: list[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """The found files that the plan does not have; and those it has whose stamp is another one, to be compared.

    Raises CannotResume, naming the file, where one is gone or has another size.
    """
    by_name = {file.name: file for file in found}
    doubtful = []
    for planned in plan.files:
        was, now = planned.source, by_name.pop(planned.source.name, None)
        if now is None:
            raise CannotResume(f"the input is another one: {was.name} is gone")
        if now.size != was.size or now.format != was.format:
            raise CannotResume(
                f"the input is another one: {was.name} has {now.size:,} bytes and had {was.size:,}; "
                "put what is new into a file of its own"
            )
        if not now.stamp or now.stamp != was.stamp:
            doubtful.append(now)
    return list(by_name.values()), doubtful


def with_cuts(plan: Plan, cuts: dict[str, Cut], added: list[SourceFile], doubtful: list[SourceFile]) -> Plan:
    """The plan with the added files behind its own, and new stamps for those whose content is the same.

    Raises CannotResume where it is not, and where there are too many parts.
    """
    stamps = {file.name: file for file in doubtful}
    files = []
    for planned in plan.files:
        now = stamps.get(planned.source.name)
        if now is not None and cuts[now.name].digest != planned.cut.digest:
            raise CannotResume(f"the input is another one: {now.name} has changed")
        files.append(planned if now is None else replace(planned, source=now))
    files += [PlannedFile(file, cuts[file.name]) for file in added]
    if sum(len(planned.cut.parts) for planned in files) > MAX_PARTS:
        raise CannotResume(f"more than {MAX_PARTS:,} parts: give a larger --part-texts, or ingest in several folders")
    return replace(plan, files=files, complete=False)


def origin_digest(origin: Origin) -> str:
    """An origin in 32 hex digits."""
    content = orjson.dumps(asdict(origin), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def record_name(part: NumberedPart) -> str:
    """Where a part's record is, below the output folder."""
    return f"{OWN_FOLDER}/{part.stem}.json"


def records_done(plan: Plan, out: Folder) -> dict[int, PartRecord]:
    """The records of the parts that are done, by number. Raises OSError."""
    sizes, origin = out.sizes(), origin_digest(plan.origin)
    names = {record_name(part): part.number for part in plan.parts()}
    contents = out.read_all([name for name in names if name in sizes])
    found = {names[name]: _record(content) for name, content in contents.items()}
    return {
        number: record
        for number, record in found.items()
        if record is not None
        and (record.number, record.origin) == (number, origin)
        and all(sizes.get(name) == size for name, size in record.files.items())
    }


def _record(content: bytes) -> PartRecord | None:
    try:
        entries = orjson.loads(content)
        return PartRecord(counts=Counts(**entries.pop("counts")), **entries)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):  # torn
        return None


def _planned(entries: dict[str, Any]) -> PlannedFile:
    source, cut = entries["source"], entries["cut"]
    return PlannedFile(
        SourceFile(**{**source, "format": Format(source["format"])}),
        Cut(cut["digest"], [Part(**part) for part in cut["parts"]]),
    )
