"""The `dejavec` command: imports the subcommand that is called, and none of the others.

Names of settings are checked here, against those of all processes. An expected error becomes one message without a
trace: a fault of configuration or model folder, or an extra of pyproject.toml that is not installed.
"""

import importlib
import importlib.util
import os
import sys
from typing import Any, NamedTuple

import click

from engine.exit_status import CANNOT_START

# The modules that each extra of pyproject.toml brings; a test compares them.
EXTRAS: dict[str, tuple[str, ...]] = {
    "client": (),
    "gateway": ("fastapi", "httptools", "prometheus_client", "psutil", "redis", "tokenizers", "uvicorn"),
    "engine": ("httptools", "onnxruntime", "prometheus_client", "psutil", "starlette", "tokenizers", "uvicorn"),
    "build": ("filelock", "huggingface_hub", "onnx", "onnxruntime", "psutil", "safetensors", "tokenizers"),
}
EXTRAS["all"] = tuple(sorted({module for modules in EXTRAS.values() for module in modules}))


class Command(NamedTuple):
    """Where a subcommand is, under which heading it is listed with which text, and the extra that it needs."""

    module: str
    attribute: str
    heading: str
    text: str
    extra: str = "client"


COMMANDS: dict[str, Command] = {
    "up": Command(
        "deploy.up", "up", "Run", "Start Redis, engines and gateway on this machine; one Ctrl-C stops all.", "all"
    ),
    "gateway": Command(
        "gateway.cli", "gateway", "Run", "Serve the HTTP API, with its caches in front of an engine.", "gateway"
    ),
    "engine": Command("engine.cli", "engine", "Run", "Serve one model bundle to gateways.", "engine"),
    "model": Command(
        "engine.build.cli", "model", "Model", "Make a model bundle from a checkpoint; look into one.", "build"
    ),
    "ingest": Command("bulk.cli", "ingest", "Use", "Embed files of any size through a gateway, resumably."),
    "cache": Command(
        "gateway.client.cache_cli",
        "cache",
        "Look",
        "Stats, explain, purge and warm a running gateway's cache; simulate it on a log.",
    ),
    "status": Command("deploy.status", "status", "Look", "A running system: what it found and chose, its hit shares."),
    "doctor": Command(
        "deploy.doctor.cli",
        "doctor",
        "Look",
        "What is wrong with this set-up, before or while it runs; how to mend it.",
    ),
    "usage": Command(
        "gateway.client.usage_cli", "usage", "Look", "What your API key, or every key, has used, and what is left."
    ),
    "config": Command(
        "deploy.config", "config", "Look", "Print every setting: its value, where it comes from, what it does."
    ),
    "metrics": Command(
        "deploy.metrics", "metrics", "Look", "Print every Prometheus metric: type, labels, unit, meaning.", "all"
    ),
    "loadtest": Command("loadtest.cli", "loadtest", "Look", "Send load to a gateway; hit rate and latency by tier."),
    "study": Command(
        "loadtest.study.cli",
        "study",
        "Look",
        "This engine beside usual ways to run its model, and beside peers.",
        "all",
    ),
    "cost": Command(
        "loadtest.cost.cli", "cost", "Look", "What embeddings cost by an API and here, and what caches save."
    ),
}
# Subcommands of a command that are elsewhere than the rest of it, since they need another extra.
SUBCOMMANDS: dict[str, dict[str, Command]] = {
    "cache": {
        "simulate": Command(
            "gateway.simulate.cli", "simulate", "", "Replay texts: what would be reused, and what it saves.", "gateway"
        ),
    },
}
READS_SETTINGS = {"up", "gateway", "engine", "model", "ingest", "cache", "usage", "loadtest", "cost", "config"}

EPILOG = """\b
Quick start:
  dejavec up
  curl localhost:8080/v1/embeddings -H 'content-type: application/json' \\
    -d '{"model": "all-MiniLM-L6-v2", "input": "Hello"}'

Settings come from DEJAVEC_* variables (DEJAVEC_GATEWAY_PORT=9000), then from dejavec.toml in the working
directory or the file that --config names (gateway_port = 9000), then from defaults. `dejavec config` shows all.
"""


class Refused(click.ClickException):
    """What an operator can mend; one message without a trace."""

    exit_code = CANNOT_START


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, and lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand. Raises Refused where its extra is not installed."""
        if cmd_name not in COMMANDS:
            return None
        _require_extra(cmd_name, COMMANDS[cmd_name].extra)
        # Before NumPy is imported: threads of its BLAS wait for each other in loops. Beside a busy process, rounding a
        # model's weights took 25 s on two of them and 6 s on one. ONNX Runtime has pools of its own.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        command = _imported(COMMANDS[cmd_name])
        if isinstance(command, click.Group):
            for name, one in SUBCOMMANDS.get(cmd_name, {}).items():
                command.add_command(_Elsewhere(name, f"{cmd_name} {name}", one))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their headings."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, command in COMMANDS.items():
            headings.setdefault(command.heading, []).append((name, command.text))
        for heading, rows in headings.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand; what an operator can mend becomes one message, with exit status CANNOT_START."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_expected(error):
                raise
            raise Refused(str(error)) from None


@click.group(
    cls=LazyGroup, invoke_without_command=True, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--config", "config_path", metavar="FILE", help="Settings file, instead of ./dejavec.toml.")
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def main(ctx: click.Context, config_path: str | None, version: bool) -> None:
    """Embedding gateway that never computes the same meaning twice: caches in front of an INT8 engine."""
    if version:
        _print_version()
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    if config_path:
        os.environ["DEJAVEC_CONFIG"] = config_path
    if ctx.invoked_subcommand in READS_SETTINGS and not {"--help", "-h"} & set(sys.argv):
        _check_names()


class _Elsewhere(click.Command):
    """Stands for one of `SUBCOMMANDS` until it is called; then that one is imported. Raises Refused as LazyGroup."""

    def __init__(self, name: str, full_name: str, found: Command) -> None:
        super().__init__(name, help=found.text)
        self._full_name, self._found = full_name, found

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command that this one stands for."""
        _require_extra(self._full_name, self._found.extra)
        return _imported(self._found).make_context(info_name, args, parent, **extra)


def _imported(found: Command) -> click.Command:
    command: click.Command = getattr(importlib.import_module(found.module), found.attribute)
    return command


def _require_extra(name: str, extra: str) -> None:
    """Refuse a command whose extra is missing, rather than let it, or a process that it starts, end in a trace."""
    missing = [module for module in EXTRAS[extra] if importlib.util.find_spec(module) is None]
    if missing:
        raise Refused(f'`dejavec {name}` needs {", ".join(missing)}: .venv/bin/pip install -e ".[{extra}]"')


def _check_names() -> None:
    """Refuse unknown names in the file, warn of unknown variables."""
    from deploy.config import settings_classes
    from engine.configuration import check_names

    for warning in check_names({name for _, cls in settings_classes() for name in cls.model_fields}):
        click.echo(f"warning: {warning}", err=True)


def _is_expected(error: Exception) -> bool:
    """Whether this is a fault of configuration or model folder, which a message explains without a trace."""
    from engine.configuration import ConfigurationError

    if isinstance(error, ConfigurationError):
        return True
    bundle = sys.modules.get("engine.bundle")
    return bundle is not None and isinstance(error, bundle.BundleError)


def _print_version() -> None:
    from importlib.metadata import version

    click.echo(f"dejavec {version('dejavec')}")


if __name__ == "__main__":
    main(prog_name="dejavec")
