"""The engine's settings, log and error table."""

import logging

import pytest

from engine import errors
from engine.configuration import ConfigurationError, load
from engine.logs import MAX_CHARACTERS, MAX_RECORDS, PERIOD_S, Flood, KeyValueFormatter
from engine.replies import STATUS
from engine.settings import EngineSettings


def test_familiar_names_have_their_familiar_defaults() -> None:
    """The names operators know are there with the values they know."""
    settings = EngineSettings()
    assert (settings.batching_timeout_ms, settings.max_batch_size, settings.max_batch_tokens) == (5, 128, 4096)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_batch_size", 0), ("engine_port", 70_000), ("batching_policy", "hopeful"), ("engine_deadline_s", 0)],
)
def test_a_value_out_of_bounds_is_refused_by_name(name: str, value: object) -> None:
    """The refusal names the setting."""
    with pytest.raises(ConfigurationError, match=name):
        load(EngineSettings, **{name: value})


def test_every_setting_is_described() -> None:
    """The README's table is made from descriptions, so none may be missing."""
    assert all(field.description for field in EngineSettings.model_fields.values())


def concrete(base: type[errors.EngineError]) -> set[type[errors.EngineError]]:
    children = base.__subclasses__()
    return set().union(*map(concrete, children)) if children else {base}


def test_every_error_has_a_status_and_a_name_of_its_own() -> None:
    """Each error of the tree is in the table, with a `type` no other has."""
    leaves = concrete(errors.EngineError)
    assert set(STATUS) == leaves
    assert len({leaf.kind for leaf in leaves}) == len(leaves)


def record(created_s: float, message: str = "again") -> logging.LogRecord:
    entry = logging.LogRecord("engine", logging.WARNING, "place.py", 1, message, None, None)
    entry.created = created_s
    return entry


def test_a_flood_of_one_line_is_cut_and_counted() -> None:
    """One line of code writes MAX_RECORDS in a period; the next period says how many were held back."""
    flood = Flood()
    written = [flood.filter(record(100.0)) for _ in range(MAX_RECORDS + 5)]
    assert sum(written) == MAX_RECORDS
    late = record(100.0 + PERIOD_S + 1)
    assert flood.filter(late)
    assert "5 like it" in late.getMessage()


def test_a_record_is_one_bounded_line() -> None:
    """A message with line breaks stays on one line, and a huge one is cut."""
    text = KeyValueFormatter().format(record(0.0, 'two\nlines "quoted" ' + "x" * 10_000))
    assert "\n" not in text
    assert '\\"quoted\\"' in text
    assert len(text) <= MAX_CHARACTERS + 3
