"""The `config` command: every setting with its value, its source and its meaning.

It prints them for people, and writes the table of docs/configuration.md (`make docs`).
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common.credentials import HIDDEN, shown_urls_in
from common.document_table import replace_table
from engine.configuration import ENV_PREFIX, Configuration, config_file, is_there, load

SECRET_NAMES = {"redis_url", "semantic_redis_url", "api_keys"}  # beside those of type SecretStr


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of one process; `value` and `default` as they may be shown."""

    process: str
    name: str
    default: str
    value: str
    source: str
    description: str


def settings_classes() -> list[tuple[str, type[Configuration]]]:
    """Each process that has settings, and their class."""
    from deploy.settings import SupervisorSettings
    from engine.settings import EngineSettings
    from gateway.client.settings import ClientSettings
    from gateway.settings import GatewaySettings

    return [
        ("gateway", GatewaySettings),
        ("engine", EngineSettings),
        ("up", SupervisorSettings),
        ("client", ClientSettings),
    ]


def effective_settings() -> list[Setting]:
    """All settings as they are in force here. Raises ConfigurationError."""
    found = []
    for process, cls in settings_classes():
        values = load(cls)
        for name, field in cls.model_fields.items():
            value = _shown(name, getattr(values, name))
            found.append(Setting(process, name, _default(field), value, _source(name), field.description or ""))
    return found


def markdown_table() -> str:
    """The table of docs/configuration.md: names, defaults and meanings, nothing of this machine."""
    lines = ["| setting | default | read by | meaning |", "|---|---|---|---|"]
    for name, (processes, field) in _by_name().items():
        description = (field.description or "").rstrip(".").replace("|", "\\|")
        lines.append(f"| `{name}` | {_markdown_default(field)} | {', '.join(processes)} | {description} |")
    return "\n".join(lines)


def with_table(document: str) -> str:
    """A document with today's table between its markers. Raises click.ClickException where it has none."""
    return replace_table(document, "settings", markdown_table())


@click.command("config")
@click.option("--markdown", is_flag=True, help="The table of docs/configuration.md, without values.")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put that table between FILE's markers instead.",
    metavar="FILE",
)
def config(markdown: bool, write: Path | None) -> None:
    """Print every setting: its value, where it comes from, what it does."""
    if write:
        write.write_text(with_table(write.read_text(encoding="utf-8")), encoding="utf-8")
        return
    if markdown:
        click.echo(markdown_table())
        return
    file = config_file()
    click.echo(f"# {file}: {'read' if is_there(file) else 'does not exist'}; DEJAVEC_* variables win over it")
    process = ""
    for setting in effective_settings():
        if setting.process != process:
            process = setting.process
            click.secho(f"\n[{process}]", bold=True)
        click.echo(f"{setting.name} = {setting.value}  ({setting.source})")
        click.secho(f"    {setting.description}", dim=True)


def _by_name() -> dict[str, tuple[list[str], FieldInfo]]:
    names: dict[str, tuple[list[str], FieldInfo]] = {}
    for process, cls in settings_classes():
        for name, field in cls.model_fields.items():
            names.setdefault(name, ([], field))[0].append(process)
    return names


def _source(name: str) -> str:
    variable = f"{ENV_PREFIX}{name.upper()}"
    if variable in {key.upper() for key in os.environ}:
        return variable
    file = config_file()
    if is_there(file) and name in tomllib.loads(file.read_text(encoding="utf-8")):
        return str(file)
    return "default"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    return "required" if default is PydanticUndefined else _shown("", default)


def _markdown_default(field: FieldInfo) -> str:
    shown = _default(field)
    return shown if shown in {"unset", "required", "none"} else f"`{shown}`"


def _shown(name: str, value: Any) -> str:
    """A value as text; secrets stay hidden."""
    if value is None:
        return "unset"
    if isinstance(value, SecretStr) or (name in SECRET_NAMES and value):
        return HIDDEN
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        value = {
            key: one.model_dump(exclude_none=True) if isinstance(one, BaseModel) else one for key, one in value.items()
        }
    if isinstance(value, list):
        value = [str(one) if isinstance(one, Path) else one for one in value]
    if isinstance(value, dict | list):
        return shown_urls_in(str(value)) if value else "none"
    return f"{value:g}" if isinstance(value, float) else shown_urls_in(str(value))
