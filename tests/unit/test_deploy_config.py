"""`dejavec config`: the values in force, their sources, and the table of docs/configuration.md."""

import re
from pathlib import Path

import pytest
from click import ClickException

from common.credentials import HIDDEN
from deploy.config import effective_settings, markdown_table, settings_classes, with_table


def setting(name: str) -> tuple[str, str]:
    return next((s.value, s.source) for s in effective_settings() if s.name == name)


def test_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable wins over the file, the file over the default; each value says which it is."""
    file = tmp_path / "mine.toml"
    file.write_text("gateway_port = 9000\nengine_port = 9001\n")
    monkeypatch.setenv("DEJAVEC_CONFIG", str(file))
    monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", "9002")
    assert setting("gateway_port") == ("9002", "DEJAVEC_GATEWAY_PORT")
    assert setting("engine_port") == ("9001", str(file))
    assert setting("gateway_workers") == ("1", "default")


def test_secrets_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords, tokens and keys are never printed."""
    monkeypatch.setenv("DEJAVEC_REDIS_URL", "redis://:hunter2@localhost/0?password=hunter2")
    monkeypatch.setenv("DEJAVEC_ADMIN_TOKEN", "hunter3-hunter3-hunter3")
    monkeypatch.setenv("DEJAVEC_ENGINE_URL", "http://me:hunter2@gpu:8081")
    monkeypatch.setenv("DEJAVEC_CLIENT_URL", "http://me:hunter2@gateway:8080")
    monkeypatch.setenv("DEJAVEC_API_KEYS", '{"hunter2-hunter2-hunter2": {"namespace": "a"}}')
    assert {setting(name)[0] for name in ("redis_url", "admin_token", "api_keys")} == {HIDDEN}
    assert setting("engine_url")[0] == "http://***@gpu:8081"
    assert not any("hunter" in one.value for one in effective_settings())


def test_every_setting_is_described() -> None:
    """Each field of each process says what it does."""
    for process, cls in settings_classes():
        for name, field in cls.model_fields.items():
            assert field.description, f"{process}: {name}"


def test_table_has_every_setting_once() -> None:
    """One row for each name, however many processes read it."""
    names = re.findall(r"^\| `(\w+)`", markdown_table(), re.MULTILINE)
    assert sorted(names) == sorted({name for _, cls in settings_classes() for name in cls.model_fields})


def test_table_is_written_between_markers() -> None:
    """`--write` replaces what stands between the markers and nothing else."""
    written = with_table("before\n<!-- settings -->\nold\n<!-- /settings -->\nafter\n")
    assert written == f"before\n<!-- settings -->\n{markdown_table()}\n<!-- /settings -->\nafter\n"


def test_document_without_markers_is_refused() -> None:
    """A file that has no place for the table is left as it is."""
    with pytest.raises(ClickException, match="markers"):
        with_table("no table here\n")
