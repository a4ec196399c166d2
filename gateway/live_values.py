"""Values changed while running, as one document: what is set, the last changes, and what undoing one brings back.

Each change carries the revision of the document it came with, which is its `changed_at`; what was changed together has
one revision and is undone together. Undoing is a change like any other, and names the revision it takes back:

    set 0.95      revision 7                 standing: 7
    set 0.90      revision 9                 standing: 9, 7
    undo          revision 12, undoes 9      standing: 7        undoing again takes back 7
    undo 12       revision 15, undoes 12     standing: 9, 7     as before the first undo
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import Conflict, NotFound
from gateway.settings import NAMESPACE_PATTERN, NamespaceSettings

MAX_CHANGES: Final = 100

Value = str | float
Values = dict[str, Value]
Live = Mapping[str, Values]  # by namespace, or ALL_NAMESPACES


class Change(BaseModel):
    """One value changed while running: the values in force before (`old`) and after (`new`), `at` in UTC.

    `own_old`, `own_new`: the namespace's own live value, None where it had or has none. `revision` 0: recorded by a
    version that kept neither, so it cannot be undone. `undoes`: the revision that this takes back, 0 for none.
    """

    model_config = ConfigDict(extra="ignore")  # of a later version

    at: str
    namespace: str
    field: str
    old: Value
    new: Value
    own_old: Value | None = None
    own_new: Value | None = None
    revision: int = 0
    undoes: int = 0


class Document(BaseModel):
    """What is kept in Redis."""

    model_config = ConfigDict(extra="forbid")

    live: dict[Annotated[str, Field(pattern=rf"^\*$|{NAMESPACE_PATTERN}")], NamespaceSettings] = {}
    changes: list[Change] = Field(default_factory=list, max_length=MAX_CHANGES)  # the latest first
    changed_at: int = 0  # ms; only moves forward, whatever the clock says

    def values(self) -> dict[str, Values]:
        """The live values of each namespace."""
        return {namespace: own.stated() for namespace, own in self.live.items()}


def shown(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The changes for people, the latest first: what each undoes, and whether it was undone itself."""
    undone, found = set(), []
    for change in changes:
        is_undone = change.revision in undone and change.revision != 0
        if change.undoes and not is_undone:
            undone.add(change.undoes)
        facts = change.model_dump(include={"at", "namespace", "field", "old", "new", "revision", "undoes"})
        found.append({**facts, "undone": is_undone})
    return found


def to_undo(changes: Sequence[Change], namespace: str, revision: int | None = None) -> list[Change]:
    """The changes to take back: the last of a namespace that stands; with `revision` that one, if it is the last.

    The last change of a namespace may be an undoing itself, and is taken back where its revision is named. Raises
    NotFound where there is nothing to undo, Conflict where another change has come after `revision`.
    """
    own = [change for change in changes if change.namespace == namespace]
    marked = {one["revision"]: one for one in shown(own)}
    standing = [change.revision for change in own if not marked[change.revision]["undone"] and not change.undoes]
    last = [change.revision for change in own][:1]
    chosen = standing[0] if standing else None
    if revision is not None:
        if revision not in (*standing[:1], *last):
            raise Conflict(f"revision {revision} is not the last change there: look at what is in force now")
        chosen = revision
    if not chosen:
        raise NotFound("no live change that could be undone is recorded there", param="namespace")
    return [change for change in own if change.revision == chosen]
