"""`dejavec cache simulate`: the options, and what is printed when something is missing."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import click
import orjson
from rich.console import Console
from rich.progress import track

from cache.semantic.tier import StaticEmbeddingError
from common.output_file import OutputFile
from common.texts import BadLines, Format, TextForm, Texts, form_of, read_all
from common.texts.options import bad_lines_option, field_option, format_option
from engine.configuration import load
from gateway.errors import GatewayError
from gateway.names import ModelNames
from gateway.settings import GatewaySettings
from gateway.simulate.record import Recorded, ready_engine, record
from gateway.simulate.report import Report
from gateway.simulate.report import simulate as simulate_recorded

DEFAULT_LIMIT = 20_000
FIDELITIES = (0.95, 0.92, 0.90)

T = TypeVar("T")

EPILOG = """\b
Nothing is served, stored or written to Redis. Semantic settings (similarity_threshold, min_text_length, ...) are the
configured ones; the cost gate works as in service. Memory: 130 MB, and for each distinct text the engine's float32
vector twice, static vectors and token ids: 8 kB at 384 dimensions (290 MB in all for 20,000 texts), 13 kB at 1,024.
"""


@click.command("simulate", epilog=EPILOG)
@click.argument(
    "logs",
    metavar="LOG...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--engine-url", help="The running engine (setting engine_url).")
@click.option(
    "--fidelity",
    "fidelities",
    multiple=True,
    type=click.FloatRange(0.8, 0.99),
    help="Fidelity to replay mode auto at; repeatable.  [default: 0.95, 0.92, 0.90]",
)
@click.option(
    "--engine-price-ms",
    type=click.FloatRange(min=0),
    help="What computing a text is worth, in place of the measured time (setting engine_price_ms).",
)
@click.option("--prompt-name", help="The checkpoint's prompt that your clients put in front.")
@click.option(
    "--limit", default=DEFAULT_LIMIT, show_default=True, type=click.IntRange(min=1), help="Most texts to read."
)
@format_option()
@field_option
@bad_lines_option
@click.option("--json", "json_file", type=OutputFile(), help="Also write every figure to this file.")
def simulate(
    logs: tuple[Path, ...],
    engine_url: str | None,
    fidelities: tuple[float, ...],
    engine_price_ms: float | None,
    prompt_name: str | None,
    limit: int,
    format: Format | None,
    field: str,
    bad_lines_file: Path | None,
    json_file: Path | None,
) -> None:
    """Replay texts through the semantic tier: what would be reused, how often wrongly, and what that saves.

    LOG holds one text a line, or is JSON Lines, CSV, TSV or Parquet; plain or gzip; - is standard input. Give several
    in their order, such as a document set release after release. The running engine computes the texts in its bulk
    lane.
    """
    settings = load(GatewaySettings, engine_url=engine_url, engine_price_ms=engine_price_ms)
    log = _read(logs, partial(form_of, format=format, text_field=field), limit, bad_lines_file)
    recorded, embedding = _record(settings, log.texts, prompt_name)
    try:
        report = simulate_recorded(recorded, embedding, settings, fidelities or FIDELITIES, _shown)
    except StaticEmbeddingError as error:
        raise click.ClickException(f"the engine's static embedding cannot be used: {error}") from None
    _print(log, recorded, report)
    if json_file is not None:
        _write(json_file, log, recorded, report)


def _read(logs: Sequence[Path], form: Callable[[Path], TextForm], limit: int, bad_lines_file: Path | None) -> Texts:
    """The texts of the files. Raises click.ClickException where there are none, or a file cannot be read."""
    try:
        with BadLines(bad_lines_file) as bad_lines:
            log = read_all(logs, form, limit=limit, bad_lines=bad_lines)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    if not log.texts:
        raise click.ClickException(f"no text in {', '.join(map(str, logs))}: {log.tally}")
    return log


def _record(settings: GatewaySettings, texts: Sequence[str], prompt_name: str | None) -> tuple[Recorded, bytes]:
    """What the engine makes of the texts, and its static embedding. Raises click.ClickException."""

    async def work() -> tuple[Recorded, bytes]:
        async with ready_engine(settings.engine_url) as engine:
            model = engine.model
            if model.static_embedding is None:
                raise click.ClickException("the engine's bundle has no static embedding: build it again to get one")
            prompt = ModelNames(settings.model_aliases).prompt_named(prompt_name, model.info)
            return await record(engine, texts, prompt, _shown), model.static_embedding

    try:
        return asyncio.run(work())
    except GatewayError as error:
        raise click.ClickException(error.message) from None


def _shown(what: str, steps: Sequence[T]) -> Iterable[T]:
    """The steps, with a progress bar where there is a terminal."""
    console = Console(stderr=True)
    return track(steps, what, console=console, disable=not console.is_terminal, transient=True)


def _print(log: Texts, recorded: Recorded, report: Report) -> None:
    cut = " (cut: --limit reads more)" if log.was_cut else ""
    click.echo(
        f"{len(log.texts):,} texts{cut}, {report.exact_repeats / report.requests:.1%} of them exact repeats", nl=False
    )
    click.echo(f", {recorded.truncated:,} truncated at the model's limit" if recorded.truncated else "")
    click.echo(str(log.tally))
    report.print()


def _write(path: Path, log: Texts, recorded: Recorded, report: Report) -> None:
    counts = {
        "texts": len(log.texts),
        "lines": log.tally.to_json(),
        "was_cut": log.was_cut,
        "truncated": recorded.truncated,
    }
    try:
        path.write_bytes(orjson.dumps({"log": counts, **report.to_json()}, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise click.ClickException(str(error)) from None
