"""The `dejavec` command: finds the subcommand that is asked for and imports nothing of the others.

Here every process's settings are known, so here a misspelt name is found; and here an expected error becomes one
message without a trace. Knows nothing of what the commands do.
"""

import importlib
import os
import sys
from typing import Any

import click

from engine.exit_status import CANNOT_START

# name: (module, attribute, heading, what it does)
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "up": ("deploy.up", "up", "Run", "Start Redis, engine and gateway on this machine; one Ctrl-C stops all."),
    "gateway": ("gateway.cli", "gateway", "Run", "Serve the HTTP API, with its caches in front of an engine."),
    "engine": ("engine.cli", "engine", "Run", "Serve one model bundle to gateways."),
    "model": ("engine.build.cli", "model", "Model", "Make a model bundle from a checkpoint; look into one."),
    "ingest": ("gateway.client.cli", "ingest", "Use", "Embed a JSONL file of any size through a gateway, resumably."),
    "cache": ("gateway.client.cache_cli", "cache", "Look", "Stats, explain, purge and warm a running gateway's cache."),
    "config": ("deploy.config", "config", "Look", "Print every setting: its value, where it comes from, what it does."),
    "loadtest": ("loadtest.cli", "loadtest", "Look", "Send load to a gateway; hit rate and latency by tier."),
}
READS_SETTINGS = {"up", "gateway", "engine", "model", "ingest", "cache", "config"}

EPILOG = """\b
Quick start:
  dejavec up
  curl localhost:8080/v1/embeddings -H 'content-type: application/json' \\
    -d '{"model": "all-MiniLM-L6-v2", "input": "Hello"}'

Settings come from DEJAVEC_* variables (DEJAVEC_GATEWAY_PORT=9000), then from dejavec.toml in the working
directory or the file that --config names (gateway_port = 9000), then from defaults. `dejavec config` shows all.
"""


class Refused(click.ClickException):
    """What an operator can mend; told without a trace."""

    exit_code = CANNOT_START


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for, and lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in COMMANDS:
            return None
        # Before NumPy is imported: threads of its BLAS wait for each other in loops. Beside a busy process, rounding a
        # model's weights took 25 s on two of them and 6 s on one. ONNX Runtime has pools of its own.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        module, attribute, _, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their headings."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for name, (_, _, heading, text) in COMMANDS.items():
            headings.setdefault(heading, []).append((name, text))
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


def _check_names() -> None:
    """Refuse unknown names in the file, warn of unknown variables."""
    from deploy.config import settings_classes
    from engine.configuration import check_names

    for warning in check_names({name for _, cls in settings_classes() for name in cls.model_fields}):
        click.echo(f"warning: {warning}", err=True)


def _is_expected(error: Exception) -> bool:
    """Whether this is a fault of configuration or model folder, told by a message and not by a trace."""
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
