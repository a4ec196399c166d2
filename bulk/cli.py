"""`dejavec ingest`: one file through a gateway, or with `--engine ray` many on many machines; and what it prints."""

import importlib.util
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from click.core import ParameterSource
from rich.console import Console

from common.credentials import shown_url
from common.gateway_url import base_url
from common.texts import Fault, Format, Tally, TextForm
from engine.configuration import load
from gateway.client.cli import (
    CANNOT_RESUME,
    EMBED_OPTIONS,
    EPILOG,
    FILE_FAULT,
    INTERRUPTED,
    NO_ANSWER,
    NOTHING_USABLE,
    PASSING,
    REFUSED,
    TERMINATED,
)
from gateway.client.cli import ingest as into_one_file
from gateway.client.errors import ClientError
from gateway.client.ingest import EmbedOptions
from gateway.client.journal import CannotResume, Occupied
from gateway.client.progress import tier_shares
from gateway.client.settings import ClientSettings

RAY_FAILED: Final = 7
RAY_ONLY: Final = ("bundle", "actors", "actor_cpus", "ray_address", "part_texts", "out_format")
GATEWAY_ONLY: Final = ("url", "fallback_url", "model", "cache_control", "min_fidelity", "concurrency", "patience_s")
START_OVER: Final = "Use another --out, or --start-over to replace what is there."
IN_PROCESS: Final = ("onnxruntime", "prometheus_client", "psutil", "starlette", "tokenizers", "uvicorn")

RAY_EPILOG: Final = """\b
With --engine ray, SOURCE is a file, a folder or a pattern of JSON Lines and Parquet, on a local path or any URL that
fsspec knows (s3://, gs://, ...), and --out a folder or URL. It gets one file a part of the input, with columns id,
file, line, vector; bad lines, the plan and a record of each part that is done are in its folder _dejavec. Run it again
to do what is left, or new files of SOURCE. Exit status 7: Ray did not start, or gave up.
"""


@dataclass(frozen=True, slots=True)
class _RayWorkers:
    """`bulk.run.Workers` over a pool of Ray's actors."""

    pool: Any

    def cut_all(self, files: Any, part_texts: int) -> Any:
        """See Workers."""
        from bulk import over_ray  # Ray takes seconds to import

        return over_ray.cut_all(files, part_texts)

    def do_all(self, parts: Any, job: Any) -> Any:
        """See Workers."""
        from bulk import over_ray

        return over_ray.do_all(parts, job, self.pool)


@click.command("ingest", epilog=f"{EPILOG}\n{RAY_EPILOG}")
@click.argument("source")
@click.option("--out", "--output", required=True, help="NAME.npy or NAME.parquet; for Ray a folder or URL.")
@click.option(
    "--engine",
    type=click.Choice(["client", "ray"]),
    default="client",
    show_default=True,
    help="client: one file, from here; ray: parts of many files, by Ray Data's actors.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="Ray: compute with this model bundle in each actor.")
@click.option("--actors", type=click.IntRange(1, 4096), help="Ray: actors; 1 for a gateway, for a bundle all that fit.")
@click.option("--actor-cpus", default=1, show_default=True, type=click.IntRange(1, 256), help="Ray: CPUs of an actor.")
@click.option(
    "--ray-address", envvar="RAY_ADDRESS", help="Ray: the cluster to use; without it, one is started here and ended."
)
@click.option(
    "--part-texts", default=8192, show_default=True, type=click.IntRange(1, 1 << 20), help="Ray: most texts of a part."
)
@click.option(
    "--out-format",
    type=click.Choice(["parquet", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Ray: of a part.",
)
@click.pass_context
def ingest(ctx: click.Context, /, source: str, out: str, engine: str, **options: Any) -> None:
    """Embed texts of any number, by a gateway or in Ray's actors. Run it again to resume, or to add what is new."""
    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if engine == "client":
        _refuse(given, RAY_ONLY, "goes with --engine ray alone")
        for name in RAY_ONLY:
            options.pop(name)
        path = into_one_file.params[0].type.convert(source, into_one_file.params[0], ctx)
        ctx.invoke(into_one_file, source=path, out=_out_file(ctx, out), **options)
        return
    if options["bundle"] is not None:
        _refuse(given, GATEWAY_ONLY, "goes through a gateway, so not with --bundle")
    _require_packages(options["bundle"] is not None)
    ctx.exit(_over_ray(source, out, **options))


ingest.params += [param for param in into_one_file.params if param.name not in ("source", "out")]


def _out_file(ctx: click.Context, out: str) -> Any:
    param = next(param for param in into_one_file.params if param.name == "out")
    return param.type.convert(out, param, ctx)


def _refuse(given: set[str], names: tuple[str, ...], why: str) -> None:
    """Raise click.UsageError for the first of `names` that is given."""
    for name in names:
        if name in given:
            raise click.UsageError(f"--{name.removesuffix('_s').replace('_', '-')} {why}")


def _require_packages(in_process: bool) -> None:
    for extra, modules in {"ray": ("ray", "fsspec", "pyarrow"), "engine": IN_PROCESS if in_process else ()}.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            raise click.UsageError(f'this needs {", ".join(missing)}: .venv/bin/pip install -e ".[{extra}]"')


def _over_ray(source: str, out: str, *, quiet: bool, **options: Any) -> int:
    """Ingest; the exit status."""
    from bulk.over_ray import Pool, RayFailed, connected
    from bulk.progress import PartsProgress
    from bulk.run import Stopped
    from bulk.run import ingest as ingest_all
    from engine.bundle import BundleError

    ingestion = _ingestion(source, out, options)
    through_gateway = options["bundle"] is None
    pool = Pool(options["ray_address"], options["actors"] or (1 if through_gateway else None), options["actor_cpus"])
    console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
    resume = "Run the same command again to continue."
    status = 0
    signal.signal(signal.SIGTERM, _terminate)
    with PartsProgress(console) as progress:
        try:
            with connected(pool):
                ingest_all(ingestion, _RayWorkers(pool), progress)
            message = _summary(progress.counts, ingestion.out)
            if not progress.counts.rows:
                status, message = NOTHING_USABLE, f"Error: no line of {shown_url(source)} was usable.\n{message}"
        except KeyboardInterrupt:
            status, message = INTERRUPTED, f"Interrupted. {resume}"
        except _Terminated:
            status, message = TERMINATED, f"Terminated. {resume}"
        except CannotResume as error:
            advice = "" if isinstance(error, Occupied) else f"\n{START_OVER}"
            status, message = CANNOT_RESUME, f"Error: {error}.{advice}"
        except Stopped as stopped:
            status, message = int(stopped.why), f"Error: {stopped}.\n{resume}"
        except PASSING as error:
            status, message = NO_ANSWER, f"Error: {error}.\n{resume}"
        except ClientError as error:
            status, message = REFUSED, f"Error: {error}."
        except BundleError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            status, message = FILE_FAULT, f"Error: {error}.\n{resume}"
        except RayFailed as error:
            status, message = RAY_FAILED, f"Error: {error}.\n{resume}"
    if status:
        click.echo(message, err=True)
    else:
        console.print(message)
    return status


def _ingestion(source: str, out: str, options: dict[str, Any]) -> Any:
    """The options and settings as an ingestion. Raises click.UsageError, ConfigurationError."""
    from bulk.job import BundleWay, GatewayWay, OutFormat
    from bulk.run import Ingestion
    from bulk.sources import FORMATS

    if source == "-":
        raise click.UsageError("SOURCE: standard input cannot be read in parts; leave --engine ray out")
    format = options["format"]
    if format is not None and format not in FORMATS:
        raise click.UsageError(f"--format {format}: --engine ray reads jsonl and parquet; leave it out for {format}")
    way: GatewayWay | BundleWay
    if options["bundle"] is not None:
        way = BundleWay(str(options["bundle"].absolute()), options["actor_cpus"], options["batch"])
    else:
        settings = load(ClientSettings, client_url=options["url"], client_fallback_url=options["fallback_url"])
        try:
            for address in filter(None, (settings.gateway_url, settings.client_fallback_url)):
                base_url(address)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        key = settings.client_api_key
        way = GatewayWay(
            url=settings.gateway_url,
            fallback_url=settings.client_fallback_url,
            api_key=key.get_secret_value() if key else None,
            batch=options["batch"],
            concurrency=options["concurrency"],
            patience_s=options["patience_s"],
        )
    return Ingestion(
        source=source if "://" in source else str(Path(source).absolute()),
        out=out.rstrip("/") if "://" in out else str(Path(out).absolute()),
        out_format=OutFormat(options["out_format"]),
        format=format,
        form=TextForm(Format.JSONL, options["text_field"], options["id_field"], options["max_line_bytes"]),
        embed=EmbedOptions(**{name: options[name] for name in EMBED_OPTIONS}),
        way=way,
        part_texts=options["part_texts"],
        start_over=options["start_over"],
    )


def _summary(counts: Any, out: str) -> str:
    lines = [f"{shown_url(out) if '://' in out else out}: {counts.rows:,} vectors, {counts.tokens:,} tokens"]
    if counts.tiers:
        lines.append(f"served by: {tier_shares(counts.tiers)}")
    lines.append(str(Tally(counts.rows, Counter(counts.faults) + Counter({Fault.BLANK.value: counts.blank_lines}))))
    if counts.bad_lines:
        lines.append(f"{counts.bad_lines:,} bad lines set aside in its folder _dejavec")
    return "\n".join(lines)


class _Terminated(BaseException):
    """SIGTERM: ends what runs as Ctrl-C does."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise _Terminated
