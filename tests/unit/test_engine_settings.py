"""The engine's settings and error table."""

import pytest

from engine import errors
from engine.configuration import ConfigurationError, load
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
    """The table of docs/configuration.md is made from descriptions, so none may be missing."""
    assert all(field.description for field in EngineSettings.model_fields.values())


def concrete(base: type[errors.EngineError]) -> set[type[errors.EngineError]]:
    children = base.__subclasses__()
    return set().union(*map(concrete, children)) if children else {base}


def test_every_error_has_a_status_and_a_name_of_its_own() -> None:
    """Each error of the tree is in the table, with a `type` no other has."""
    leaves = concrete(errors.EngineError)
    assert set(STATUS) == leaves
    assert len({leaf.kind for leaf in leaves}) == len(leaves)
