"""What the checks look at: every process's settings, each loaded by itself, so that one that is wrong hides none."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy.local import Plan
from deploy.settings import SupervisorSettings
from engine.configuration import Configuration, ConfigurationError, load
from engine.settings import EngineSettings
from gateway.client.settings import ClientSettings
from gateway.settings import GatewaySettings

SettingsT = TypeVar("SettingsT", bound=Configuration)


class Unreadable(Exception):
    """Settings that a check needs cannot be read; the check of the settings says why."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """The settings that could be read, and why others could not. `url` and `data_dir` are of the command line."""

    supervisor: SupervisorSettings | None
    engine: EngineSettings | None
    gateway: GatewaySettings | None
    client: ClientSettings | None
    faults: tuple[str, ...] = ()
    url: str | None = None

    @property
    def plan(self) -> Plan:
        """What would run on one machine. Raises Unreadable."""
        if self.supervisor is None or self.engine is None or self.gateway is None:
            raise Unreadable
        return Plan(self.supervisor, self.engine, self.gateway)

    @property
    def own_engines(self) -> list[tuple[Path, int]]:
        """Bundle and port of each engine that `dejavec up` would start here. Raises Unreadable."""
        return [(engine.bundle, engine.port) for engine in self.plan.own_engines]

    @property
    def engine_urls(self) -> list[tuple[str, str, str | None]]:
        """Model, address and expected fingerprint (None: any) of each engine of the gateway. Raises Unreadable."""
        plan = self.plan
        expected = {name: one.fingerprint for name, one in plan.gateway.models.items()}
        return [(name, url, expected.get(name)) for name, urls in plan.engine_urls.items() for url in urls]

    @property
    def gateway_url(self) -> str:
        """Where the gateway is looked for: as given, else where this machine's would be. Raises Unreadable."""
        if self.url:
            return self.url
        if self.client is not None and self.client.client_url is not None:
            return self.client.client_url
        return self.plan.gateway_url


def find_set_up(url: str | None = None, data_dir: Path | None = None) -> SetUp:
    """Load the settings of every process as it would itself."""
    faults: list[str] = []

    def loaded(cls: type[SettingsT], **overrides: object) -> SettingsT | None:
        try:
            return load(cls, **overrides)
        except ConfigurationError as error:
            faults.extend(line for line in str(error).splitlines() if line not in faults)
        except OSError as error:
            faults.append(f"the settings file cannot be read: {error.strerror}")
        return None

    return SetUp(
        loaded(SupervisorSettings, data_dir=data_dir),
        loaded(EngineSettings),
        loaded(GatewaySettings),
        loaded(ClientSettings),
        tuple(faults),
        url,
    )
