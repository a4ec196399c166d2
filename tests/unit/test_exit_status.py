"""The exit-status contract between the processes and their supervisor: the status, the reason, and a port's wait."""

import click
import pytest

from deploy.cli import Refused
from engine import configuration
from engine.configuration import ConfigurationError, check_port
from engine.exit_status import CANNOT_START, reason_in


def test_clicks_own_refusals_have_the_status() -> None:
    """A wrong option ends a process as a wrong setting does."""
    assert click.UsageError.exit_code == Refused.exit_code == CANNOT_START


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        (["ready", "going on"], ""),
        (["starting", "Error: the port is taken"], "the port is taken"),
        (["Error: an old one", "starting", "Error: a: wrong", "  b: wrong", ""], "a: wrong; b: wrong"),
        (["level=error msg='Error: not ours'"], ""),
    ],
)
def test_the_reason_is_the_last_error_to_the_end(lines: list[str], reason: str) -> None:
    """What click prints for an error, on one line; empty when the output does not end with one."""
    assert reason_in(lines) == reason


def test_a_port_that_becomes_free_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predecessor's last worker may hold it for a moment; one that stays taken is refused."""
    answers = iter(["Address already in use", None])
    monkeypatch.setattr(configuration, "PORT_CHECK_S", 0)
    monkeypatch.setattr(configuration, "port_refusal", lambda *_: next(answers))
    monkeypatch.setattr(configuration, "PORT_WAIT_S", 60)
    check_port("127.0.0.1", 1, "engine_port")
    monkeypatch.setattr(configuration, "port_refusal", lambda *_: "Address already in use")
    monkeypatch.setattr(configuration, "PORT_WAIT_S", 0)
    with pytest.raises(ConfigurationError, match="DEJAVEC_ENGINE_PORT"):
        check_port("127.0.0.1", 1, "engine_port")
