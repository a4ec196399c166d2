"""The `engine` command, which `dejavec` attaches. Its options win over environment and file."""

import os
from pathlib import Path

import click

from common import open_files
from engine.configuration import CONFIG_VARIABLE, ConfigurationError, check_port, load
from engine.settings import EngineSettings

GATEWAY_CONNECTIONS = 256  # of one gateway worker; each further one may open as many


@click.command("engine")
@click.option("--host", default=None, help="Address to listen on.")
@click.option("--port", type=int, default=None, help="Port to listen on.")
@click.option("--bundle", type=click.Path(path_type=Path), default=None, help="Folder of the model bundle.")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="Settings file (dejavec.toml).")
def engine(host: str | None, port: int | None, bundle: Path | None, config: Path | None) -> None:
    """Serve one model bundle over the engine's protocol."""
    from engine import server  # noqa: PLC0415  ONNX Runtime takes a second to load; `--help` need not wait for it

    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    settings = load(EngineSettings, engine_host=host, engine_port=port, model_bundle=bundle)
    try:
        open_files.allow(GATEWAY_CONNECTIONS + open_files.RESERVE)
    except open_files.TooFewOpenFiles as error:
        raise ConfigurationError(f"the engine's connections: {error}") from None
    check_port(settings.engine_host, settings.engine_port, "engine_port")
    server.run(settings)
