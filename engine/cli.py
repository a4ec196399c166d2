"""The `engine` command, which `dejavec` attaches. Its options win over environment and file."""

import os
from pathlib import Path

import click

from engine.configuration import CONFIG_VARIABLE, check_port, load
from engine.settings import EngineSettings


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
    check_port(settings.engine_host, settings.engine_port, "engine_port")
    server.run(settings)
