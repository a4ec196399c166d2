"""How every dejavec process reads its settings: DEJAVEC_* variables over one TOML file over defaults.

One flat set of names serves both sources: `max_batch_size` in `dejavec.toml` is `DEJAVEC_MAX_BATCH_SIZE` in the
environment. A process's settings class lists the names it uses; names of other processes are ignored here, and
`check_names` (called by the command line with the names of all classes) refuses a name that belongs to none.
"""

import difflib
import json
import os
import re
import socket
import stat
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from common.credentials import is_writable_by_all

ENV_PREFIX = "DEJAVEC_"
CONFIG_VARIABLE = "DEJAVEC_CONFIG"
PLAIN_NAME = re.compile(r"[a-z][a-z_]{0,63}")
DEFAULT_CONFIG_FILE = Path("dejavec.toml")
PORT_WAIT_S = 2.0  # for workers of a killed predecessor to let go of its port
PORT_CHECK_S = 0.1


class ConfigurationError(Exception):
    """A setting is missing, malformed or unknown; the message names it and the remedy."""


class Configuration(BaseSettings):
    """Base of each process's settings. Immutable once built."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="ignore", frozen=True)
    secret_tables: ClassVar[frozenset[str]] = frozenset()  # tables whose keys are secrets, never to be printed

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())


SettingsT = TypeVar("SettingsT", bound=Configuration)


def config_file() -> Path:
    """The TOML file in force: `DEJAVEC_CONFIG`, else `dejavec.toml` in the working directory (it may not exist)."""
    return Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG_FILE)


def is_there(path: Path) -> bool:
    """Whether the settings file exists.

    Raises ConfigurationError where something stands in its place, or where this cannot be seen: defaults would come
    into force silently instead of what the operator wrote.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigurationError(f"{path} is a link to a file that does not exist") from None
        return False
    except NotADirectoryError:
        return False
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise ConfigurationError(
            f"{path} is a folder, not a settings file: remove it (Docker makes one where a file to mount is missing)"
        )
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is not a regular file")
    return True


def load(settings_class: type[SettingsT], **overrides: object) -> SettingsT:
    """Build one process's settings; `overrides` with a value of None are left to the other sources.

    Raises ConfigurationError naming the setting, the value's fault and where to change it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    is_there(config_file())
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, settings_class.secret_tables)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(_not_toml(config_file(), error)) from None
    except SettingsError as error:
        raise ConfigurationError(_not_json(error)) from None
    except OSError as error:
        raise ConfigurationError(f"{config_file()} cannot be read: {error.strerror}") from None


def check_names(known: Iterable[str]) -> list[str]:
    """Refuse unknown names in the TOML file; return a warning for each unknown DEJAVEC_* variable.

    Raises ConfigurationError for an unknown name in the file, with the nearest known one, and for a file that every
    user of this machine may change: it decides who gets in.
    """
    names = set(known)
    path = config_file()
    there = is_there(path)
    if os.environ.get(CONFIG_VARIABLE) and not there:
        raise ConfigurationError(f"the settings file {path}, named by --config or {CONFIG_VARIABLE}, does not exist")
    if there:
        if is_writable_by_all(path):
            raise ConfigurationError(f"every user can change {path.resolve()}: `chmod o-w` it")
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(_not_toml(path, error)) from None
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        for name in entries:
            if name not in names:
                shown = repr(name) if PLAIN_NAME.fullmatch(name) else "(not a name of ours, so not shown)"
                raise ConfigurationError(f"{path}: unknown setting {shown}{_nearest(name, names)}")
    variables = (v for v in os.environ if v.startswith(ENV_PREFIX) and v != CONFIG_VARIABLE)
    unknown = [v for v in sorted(variables) if v.removeprefix(ENV_PREFIX).lower() not in names]
    return [f"unknown variable {v}{_nearest(v.removeprefix(ENV_PREFIX).lower(), names)}" for v in unknown]


def port_refusal(host: str, port: int) -> str | None:
    """Why a server could not listen there now ("Address already in use"), or None if it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return None


def check_port(host: str, port: int, setting: str) -> None:
    """Raise ConfigurationError naming the setting when a server cannot listen there, nor PORT_WAIT_S later."""
    deadline_s = time.monotonic() + PORT_WAIT_S
    while why := port_refusal(host, port):
        if time.monotonic() >= deadline_s:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {why}; choose another {setting} ({ENV_PREFIX}{setting.upper()})"
            )
        time.sleep(PORT_CHECK_S)


def _not_toml(path: Path, error: Exception) -> str:
    """Where a file stops being TOML; the parser's own words may quote a key, and keys may be secrets."""
    place = re.search(r"\(at [^()]*\)$", str(error))
    return f"{path} is not valid TOML {place.group() if place else ''}".rstrip() + (
        "; perhaps a name or a table stands there twice" if "twice" in str(error) or "mutate" in str(error) else ""
    )


def _not_json(error: SettingsError) -> str:
    """Which variable should hold a list or table and where it stops being JSON; nothing of it, it may hold secrets."""
    field = re.search(r'field "(\w+)"', str(error))
    cause = error.__cause__
    place = f" from character {cause.pos + 1} on" if isinstance(cause, json.JSONDecodeError) else ""
    variable = f"{ENV_PREFIX}{field.group(1).upper()}" if field else f"a {ENV_PREFIX}* variable"
    return f"{variable} is not valid JSON{place} (a list or table is JSON in a variable)"


def _nearest(name: str, names: set[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(error: ValidationError, secret_tables: frozenset[str]) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        parts = [str(part) for part in fault["loc"]]
        if len(parts) > 1 and parts[0] in secret_tables:
            parts[1] = "<a key>"
        name = ".".join(parts)
        message = fault["msg"].removeprefix("Value error, ")
        if not name:  # a rule over several settings; its message names them
            lines.append(f"{message} (settings come from {ENV_PREFIX}* variables and {config_file()})")
            continue
        variable = f"{ENV_PREFIX}{str(fault['loc'][0]).upper()}"  # a table's, as JSON
        lines.append(f"{name}: {message} (set {variable} or {name!r} in {config_file()})")
    return "\n".join(lines)
