"""Policies: which source wins, what is refused, and what a stored document can and cannot do."""

import json
import logging
from typing import Any

import pytest

from cache.errors import ChangeFailed
from cache.keys import ALL_NAMESPACES
from cache.redis_link import RedisAway
from cache.semantic.policy import SemanticMode
from engine.configuration import ConfigurationError, load
from gateway.errors import BadRequest, ChangeUnconfirmed, Conflict, NotFound
from gateway.live_values import MAX_CHANGES
from gateway.policies import Policies
from gateway.settings import GatewaySettings

KEYS = {"key-of-namespace-a": {"namespace": "a"}, "key-of-namespace-b": {"namespace": "b"}}


class Record:
    """A SharedSettings in memory; `rivals` are stored by another gateway just before the next replacements."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.rivals: list[bytes] = []
        self.failure: Exception | None = None

    def open(self, stored: bytes) -> bytes | None:
        return stored

    def seal(self, document: bytes) -> bytes:
        return document

    async def load(self) -> bytes:
        if isinstance(self.failure, RedisAway):
            raise self.failure
        return self.content

    async def replace(self, old: bytes, new: bytes) -> bool:
        if self.failure is not None:
            raise self.failure
        if self.rivals:
            self.content = self.rivals.pop()
        is_same = self.content == old
        self.content = new if is_same else self.content
        return is_same


def settings(**more: Any) -> GatewaySettings:
    return load(GatewaySettings, api_keys=KEYS, **more)


async def policies_of(record: Record | None = None, **more: Any) -> Policies:
    chosen = settings(**more)
    policies = Policies(chosen, ["a", "b"], record if record is not None else Record())  # type: ignore[arg-type]
    await policies.refresh()
    return policies


def fidelities(policies: Policies) -> tuple[float, float]:
    return policies.of("a").fidelity, policies.of("b").fidelity


async def test_what_a_namespace_leaves_out_is_as_for_all() -> None:
    """Configuration of a namespace over the global settings, value by value, in the policy and in its sources."""
    policies = await policies_of(
        namespaces={"a": {"semantic_fidelity": 0.95, "semantic_mode": "observe"}}, certificate_alpha=0.02
    )
    a = policies.of("a")
    assert (a.mode, a.fidelity, a.certifier.alpha) == (SemanticMode.OBSERVE, 0.95, 0.02)
    assert (a.threshold.fidelity, a.threshold.alpha, a.certifier.budget.alpha) == (0.95, 0.02, 0.02)
    assert policies.of("b").fidelity == 0.92
    shown = policies.in_force("a").shown()
    assert shown["semantic_fidelity"] == {"value": 0.95, "source": "configuration"}
    assert shown["certificate_alpha"] == {"value": 0.02, "source": "configuration"}
    assert shown["threshold_floor"] == {"value": 0.88, "source": "default"}


async def test_the_most_specific_source_wins() -> None:
    """live for a namespace > its configuration > live for all > global; null takes one step back."""
    policies = await policies_of(namespaces={"a": {"semantic_fidelity": 0.95}})
    await policies.change(ALL_NAMESPACES, {"semantic_fidelity": 0.90})
    assert fidelities(policies) == (0.95, 0.90)
    await policies.change("a", {"semantic_fidelity": 0.93})
    assert fidelities(policies) == (0.93, 0.90)
    assert policies.in_force("a").shown()["semantic_fidelity"] == {"value": 0.93, "source": "live"}
    await policies.change("a", {"semantic_fidelity": None})
    await policies.change(ALL_NAMESPACES, {"semantic_fidelity": None})
    assert fidelities(policies) == (0.95, 0.92)


@pytest.mark.parametrize(
    ("namespaces", "message"),
    [
        ({"c": {}}, "no API key leads to 'c'"),
        ({"a": {"semantic_fidelity": 0.5}}, "namespaces.a.semantic_fidelity"),
        ({"a": {"semantic_fidelity": "0.9"}}, "namespaces.a.semantic_fidelity"),
        ({"a": {"threshold_floor": float("nan")}}, "namespaces.a.threshold_floor"),
        ({"a": {"threshold_ceiling": True}}, "namespaces.a.threshold_ceiling"),
        ({"a": {"semantic_mode": "maybe"}}, "namespaces.a.semantic_mode"),
        ({"a": {"fidelity": 0.9}}, "namespaces.a.fidelity"),
        ({"a": {"threshold_floor": 0.95}}, "namespaces.a: similarity_threshold must lie between"),
        ({"A b": {}}, "namespaces.A b"),
    ],
)
def test_a_wrong_namespace_is_refused_at_start(namespaces: dict[str, Any], message: str) -> None:
    """Names, ranges, types and order are checked like the global settings', and the message names the place."""
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        settings(namespaces=namespaces)


def test_without_keys_there_is_one_namespace() -> None:
    """`default` can be configured, and any other is a mistake."""
    assert load(GatewaySettings, namespaces={"default": {"semantic_mode": "on"}}).namespaces
    with pytest.raises(ConfigurationError, match="no API key leads to 'a'"):
        load(GatewaySettings, namespaces={"a": {}})


def test_the_table_can_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON, like api_keys."""
    monkeypatch.setenv("DEJAVEC_NAMESPACES", '{"default": {"semantic_fidelity": 0.9}}')
    assert load(GatewaySettings).namespaces["default"].semantic_fidelity == 0.9


@pytest.mark.parametrize(
    ("namespace", "values", "param"),
    [
        ("c", {"semantic_fidelity": 0.9}, "namespace"),
        ("a", {"threshold_floor": 0.95}, "threshold_floor"),
        ("a", {"semantic_mode": "on", "similarity_threshold": 0.99}, "similarity_threshold"),
        (ALL_NAMESPACES, {"threshold_ceiling": 0.94}, "threshold_ceiling"),  # b is configured above it
    ],
)
async def test_values_that_do_not_go_together_are_refused(namespace: str, values: dict[str, Any], param: str) -> None:
    """Every namespace is looked at, with its own configuration; nothing is stored."""
    record = Record()
    policies = await policies_of(record, namespaces={"b": {"similarity_threshold": 0.96}})
    with pytest.raises(BadRequest) as refused:
        await policies.change(namespace, values)
    assert refused.value.param == param
    assert record.content == b""


async def test_changes_are_recorded_with_what_was_in_force(caplog: pytest.LogCaptureFixture) -> None:
    """Old and new values, the latest first, at most a hundred, and one line in the log for each."""
    record = Record()
    policies = await policies_of(record)
    with caplog.at_level(logging.INFO):
        await policies.change("a", {"semantic_fidelity": 0.95, "semantic_mode": "on"})
    assert [(c["field"], c["old"], c["new"]) for c in policies.changes()] == [
        ("semantic_fidelity", 0.92, 0.95),
        ("semantic_mode", "auto", "on"),
    ]
    assert "policy changed: namespace=a field=semantic_fidelity old=0.92 new=0.95" in caplog.messages
    assert await policies.change("a", {"semantic_fidelity": 0.95}) == []
    for number in range(MAX_CHANGES):
        await policies.change("b", {"similarity_threshold": 0.9 + number / 10_000})
    assert len(policies.changes()) == MAX_CHANGES
    assert policies.changes()[0]["new"] == pytest.approx(0.9099)
    assert len(record.content) < 20_000


async def test_two_gateways_at_once_lose_no_change() -> None:
    """The second looks again and keeps the first one's values; a record that never rests is given up."""
    record = Record()
    policies = await policies_of(record)
    record.rivals = [b'{"live": {"b": {"semantic_fidelity": 0.9}}, "changes": []}']
    await policies.change("a", {"semantic_fidelity": 0.95})
    assert fidelities(policies) == (0.95, 0.9)
    record.rivals = [b'{"live": {"b": {"semantic_fidelity": 0.9%d}}, "changes": []}' % n for n in range(9)]
    with pytest.raises(ChangeUnconfirmed):
        await policies.change("a", {"semantic_fidelity": 0.93})


@pytest.mark.parametrize("failure", [RedisAway("away"), ChangeFailed("unconfirmed")])
async def test_an_unconfirmed_change_changes_nothing_here(failure: Exception) -> None:
    """Redis away: a typed 503, and what was in force stays."""
    record = Record()
    policies = await policies_of(record)
    await policies.change("a", {"semantic_fidelity": 0.95})
    record.failure = failure
    with pytest.raises(ChangeUnconfirmed) as refused:
        await policies.change("a", {"semantic_fidelity": 0.9, "semantic_mode": "on"})
    assert refused.value.status == 503
    assert fidelities(policies) == (0.95, 0.92)
    assert policies.of("a").mode is SemanticMode.AUTO


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\x00",
        b"[]",
        b"hash",
        b'{"live": {"a": {"semantic_fidelity": 7}}}',
        b'{"live": {"a": {"semantic_fidelity": null, "more": 1}}}',
        b'{"live": {"A b": {}}}',
        b'{"live": {}, "changes": [{"at": 1}]}',
        b"{" * 300_000,
    ],
)
async def test_a_document_that_cannot_be_read_is_ignored(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once; what was in force stays, and the next change replaces it whole."""
    record = Record()
    policies = await policies_of(record)
    await policies.change("a", {"semantic_fidelity": 0.95})
    record.content = content
    await policies.refresh()
    await policies.refresh()
    assert fidelities(policies) == (0.95, 0.92)
    assert len([m for m in caplog.messages if "cannot be read" in m]) == 1
    await policies.change("b", {"semantic_fidelity": 0.9})
    assert set(json.loads(record.content)["live"]) == {"a", "b"}
    fresh = await policies_of(Record(content))
    assert fidelities(fresh) == (0.92, 0.92)


async def test_live_values_that_are_gone_are_put_back(caplog: pytest.LogCaptureFixture) -> None:
    """Evicted, or lost with Redis' memory: what was in force stays, for gateways that start later too."""
    record = Record()
    first, second = await policies_of(record), await policies_of(record)
    await first.change("a", {"semantic_fidelity": 0.95})
    await second.refresh()
    kept, record.content = record.content, b""
    await second.refresh()
    await first.refresh()
    assert record.content == kept
    assert fidelities(first) == fidelities(second) == (0.95, 0.92)
    assert len([m for m in caplog.messages if "gone from Redis" in m]) == 1
    record.content = b""
    await first.change("b", {"semantic_fidelity": 0.9})
    assert set(json.loads(record.content)["live"]) == {"a", "b"}


async def test_live_values_that_no_longer_fit_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """After a change of configuration a namespace's live bounds may contradict it: that namespace goes by its own
    configuration, the others keep their live values."""
    record = Record(b'{"live": {"a": {"threshold_ceiling": 0.93}, "b": {"semantic_fidelity": 0.9}}, "changes": []}')
    policies = await policies_of(record, similarity_threshold=0.95)
    assert policies.of("a").threshold.threshold_ceiling == 0.98
    assert policies.of("b").fidelity == 0.9
    assert any("namespace a" in message for message in caplog.messages)


async def test_nothing_is_reused_before_the_live_values_are_known() -> None:
    """A gateway that cannot read them at start does not go by an older, looser policy."""
    record = Record()
    record.failure = RedisAway("away")
    policies = Policies(settings(semantic_mode="on"), ["a", "b"], record)  # type: ignore[arg-type]
    with pytest.raises(RedisAway):
        await policies.refresh()
    assert policies.of("a").mode is SemanticMode.OFF
    assert not policies.is_any_on
    record.failure = None
    await policies.refresh()
    assert policies.of("a").mode is SemanticMode.ON


@pytest.mark.parametrize(
    ("everywhere", "own", "expected"), [("off", "observe", True), ("on", "off", True), ("off", "off", False)]
)
async def test_one_namespace_that_is_on_is_enough(everywhere: str, own: str, expected: bool) -> None:
    """The tier exists as long as any namespace uses the semantic tier."""
    policies = await policies_of(semantic_mode=everywhere, namespaces={"a": {"semantic_mode": own}})
    assert policies.is_any_on is expected


async def test_undo_goes_back_change_by_change() -> None:
    """What was changed together is undone together, to the live value there was or to none; then the one before."""
    policies = await policies_of(namespaces={"a": {"semantic_fidelity": 0.93}})
    await policies.change("a", {"semantic_fidelity": 0.95, "certificate_alpha": 0.1})
    await policies.change("b", {"semantic_fidelity": 0.9})
    await policies.change("a", {"semantic_fidelity": 0.97})
    changed = await policies.undo("a")
    assert [(one.field, one.old, one.new) for one in changed] == [("semantic_fidelity", 0.97, 0.95)]
    assert fidelities(policies) == (0.95, 0.9)
    await policies.undo("a")
    assert fidelities(policies) == (0.93, 0.9)
    shown = policies.in_force("a").shown()
    assert shown["semantic_fidelity"]["source"] == "configuration"
    assert shown["certificate_alpha"] == {"value": 0.05, "source": "default"}
    with pytest.raises(NotFound):
        await policies.undo("a")
    assert fidelities(policies) == (0.93, 0.9)


async def test_an_undo_is_recorded_and_can_be_taken_back() -> None:
    """By its own revision; afterwards undoing takes back the same change again."""
    policies = await policies_of()
    (change,) = await policies.change("a", {"semantic_fidelity": 0.95})
    (undo,) = await policies.undo("a", change.revision)
    assert (undo.undoes, undo.old, undo.new) == (change.revision, 0.95, 0.92)
    (redo,) = await policies.undo("a", undo.revision)
    assert (redo.undoes, policies.of("a").fidelity) == (undo.revision, 0.95)
    assert [(one["undoes"], one["undone"]) for one in policies.changes()] == [
        (undo.revision, False),
        (change.revision, True),
        (0, False),
    ]
    await policies.undo("a")
    assert policies.of("a").fidelity == 0.92


async def test_undo_of_what_is_no_longer_the_last_is_refused() -> None:
    """Somebody changed it meanwhile: what they set stays."""
    policies = await policies_of()
    (first,) = await policies.change("a", {"semantic_fidelity": 0.95})
    await policies.change("a", {"semantic_fidelity": 0.97})
    with pytest.raises(Conflict):
        await policies.undo("a", first.revision)
    with pytest.raises(Conflict):
        await policies.undo("a", first.revision + 12345)
    assert policies.of("a").fidelity == 0.97


async def test_undo_for_all_leaves_namespaces_alone() -> None:
    """What holds for all has changes of its own."""
    policies = await policies_of()
    await policies.change(ALL_NAMESPACES, {"semantic_fidelity": 0.95})
    await policies.change("a", {"semantic_fidelity": 0.9})
    await policies.undo(ALL_NAMESPACES)
    assert fidelities(policies) == (0.9, 0.92)
    assert policies.in_force("a").shown()["semantic_fidelity"]["source"] == "live"


async def test_undo_sees_what_another_gateway_changed() -> None:
    """It is planned over what is stored at that moment, and planned anew where another gateway came between."""
    record = Record()
    policies, other = await policies_of(record), await policies_of(record)
    await policies.change("a", {"semantic_fidelity": 0.95})
    await other.change("a", {"semantic_fidelity": 0.97})
    await policies.undo("a")
    assert policies.of("a").fidelity == 0.95
    await other.change("a", {"semantic_fidelity": 0.96})
    kept = record.content
    await other.change("b", {"semantic_fidelity": 0.9})
    record.rivals, record.content = [record.content], kept
    await policies.undo("a")
    assert fidelities(policies) == (0.95, 0.9)


async def test_changes_of_a_version_without_revisions_are_not_undone() -> None:
    """They do not have what was live before; the record of today is read all the same."""
    change = {
        "at": "2026-11-01T00:00:00+00:00",
        "namespace": "a",
        "field": "semantic_fidelity",
        "old": 0.92,
        "new": 0.95,
    }
    stored = {"live": {"a": {"semantic_fidelity": 0.95}}, "changes": [change], "changed_at": 7}
    policies = await policies_of(Record(json.dumps(stored).encode()))
    assert policies.of("a").fidelity == 0.95
    with pytest.raises(NotFound):
        await policies.undo("a")
    await policies.change("a", {"semantic_fidelity": 0.97})
    await policies.undo("a")
    assert policies.of("a").fidelity == 0.95


async def test_undo_that_would_not_go_together_is_refused() -> None:
    """The configuration has changed meanwhile: what is in force stays, and is named."""
    policies = await policies_of()
    await policies.change("a", {"threshold_floor": 0.85})
    await policies.change("a", {"threshold_floor": 0.7})
    policies.adopt(settings(namespaces={"a": {"similarity_threshold": 0.8, "threshold_floor": 0.6}}))
    with pytest.raises(BadRequest, match="in namespace a"):
        await policies.undo("a")
    assert policies.in_force("a").values["threshold_floor"] == 0.7


async def test_other_settings_are_adopted_under_live_values(caplog: pytest.LogCaptureFixture) -> None:
    """A file that changed moves what nobody changed live; followers are called, and what moved is logged."""
    caplog.set_level(logging.INFO)
    policies = await policies_of()
    await policies.change("a", {"semantic_fidelity": 0.95})
    called: list[bool] = []
    policies.on_change(lambda: called.append(True))
    policies.adopt(settings(semantic_fidelity=0.9, namespaces={"b": {"certificate_alpha": 0.1}}))
    assert fidelities(policies) == (0.95, 0.9)
    assert policies.of("b").alpha == 0.1
    assert policies.in_force("b").shown()["semantic_fidelity"]["source"] == "configuration"
    assert called
    assert "in the settings file: namespace=b field=semantic_fidelity old=0.92 new=0.9" in caplog.text
    assert "namespace=a field=semantic_fidelity old" not in caplog.text.split("settings file")[-1]
