"""`dejavec ingest`: the options, what is printed, and what the exit status means."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from common.gateway_url import base_url
from common.texts import MAX_LINE_BYTES, Fault, Format, SourceError, Tally, form_of
from common.texts.options import format_option
from engine.configuration import load
from gateway.client.errors import (
    CircuitOpen,
    ClientError,
    FingerprintMismatch,
    RateLimited,
    TransportError,
    Unavailable,
)
from gateway.client.ingest import EmbedOptions, Plan
from gateway.client.ingest import ingest as ingest_plan
from gateway.client.journal import CannotResume, Journal, Occupied
from gateway.client.output import Paths
from gateway.client.progress import IngestProgress, tier_shares
from gateway.client.settings import ClientSettings, explained

FILE_FAULT = 1
CANNOT_RESUME = 3
NO_ANSWER = 4
REFUSED = 5
NOTHING_USABLE = 6
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

EMBED_OPTIONS = ("model", "dimensions", "prompt_name", "cache_control", "min_fidelity")
PASSING: tuple[type[ClientError], ...] = (TransportError, RateLimited, Unavailable, CircuitOpen)

EPILOG = """\b
SOURCE is JSON Lines (objects, or bare strings whose id is their line's number), or by its suffix or --format CSV, TSV
or Parquet; UTF-8 or UTF-16, plain or gzip; - is standard input. A line that cannot be used is passed over.

\b
Writes NAME.npy (float32, one row a text, in the order of the lines) or NAME.parquet (columns id, line, vector),
NAME.ids.jsonl (the id and line of each row), NAME.bad.jsonl (lines set aside, with the reason) and NAME.ingest.json
(the record, and where to resume). Run it again when SOURCE has grown: its new lines are added.

\b
The API key to send is the setting client_api_key (DEJAVEC_CLIENT_API_KEY).

\b
Exit status: 0 complete, bad lines included; 1 a file could not be read or written; 2 wrong usage or settings;
3 what is there is of another input, model or options: --start-over replaces it; 4 the gateway did not answer in
time; 5 the gateway refused; 6 no line was usable; 130 Ctrl-C; 143 SIGTERM. After 1, 4, 5, 130, 143 and a kill, run it
again to continue.
"""


class Refused(click.ClickException):
    """Files that cannot be written; found before anything is asked or read."""

    exit_code = FILE_FAULT


@click.command("ingest", epilog=EPILOG)
@click.argument("source", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--out",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="NAME.npy or NAME.parquet to write.",
)
@click.option("--url", help="The gateway (client_url, else this machine's).")
@click.option("--fallback-url", help="A second gateway of the same model (setting client_fallback_url).")
@format_option("JSON Lines")
@click.option("--text-field", default="text", show_default=True, help="Field or column that holds the text.")
@click.option(
    "--id-field", default="id", show_default=True, help="Field or column of the id; without it, the line number."
)
@click.option("--model", help="Model to use; by default the one the gateway serves.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Leading dimensions to keep.")
@click.option("--prompt-name", help="The checkpoint's prompt to put in front, such as document.")
@click.option("--cache-control", type=click.Choice(["no-store", "no-cache", "exact-only"]), help="Caches to leave out.")
@click.option(
    "--min-fidelity", type=click.FloatRange(0, 1), help="Least similarity of a semantic hit to the recomputed vector."
)
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1, 2048), help="Texts in one request.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Most requests at once.")
@click.option(
    "--max-line-bytes", default=MAX_LINE_BYTES, show_default=True, type=click.IntRange(min=1), help="Longest line."
)
@click.option(
    "--patience",
    "patience_s",
    default=300.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds to go on trying for one request.",
)
@click.option("--start-over", is_flag=True, help="Replace what an earlier run has written.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def ingest(ctx: click.Context, /, quiet: bool, **options: Any) -> None:
    """Embed a file of texts, of any size, through the gateway. Run it again to resume, or to add what is new."""
    console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
    plan = _plan(**options)
    with IngestProgress(console) as progress:
        status, message = _run(plan, progress)
    if status:
        click.echo(message, err=True)
    else:
        console.print(message)
    ctx.exit(status)


def _plan(
    *,
    source: Path,
    url: str | None,
    fallback_url: str | None,
    format: Format | None,
    text_field: str,
    id_field: str,
    max_line_bytes: int,
    out: Path,
    **rest: Any,
) -> Plan:
    """The options and settings as a plan. Raises click.UsageError, Refused, ConfigurationError."""
    settings = load(ClientSettings, client_url=url, client_fallback_url=fallback_url)
    key = settings.client_api_key
    try:
        paths = Paths(out)
        paths.require_folder()
        paths.format.check()
        for address in filter(None, (settings.gateway_url, settings.client_fallback_url)):
            base_url(address)
    except (ValueError, SourceError) as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise Refused(str(error)) from None
    form = form_of(
        source,
        format,
        default=Format.JSONL,
        text_field=text_field,
        id_field=id_field,
        max_line_bytes=max_line_bytes,
    )
    return Plan(
        source=source,
        out=out,
        url=settings.gateway_url,
        fallback_url=settings.client_fallback_url,
        api_key=key.get_secret_value() if key else None,
        form=form,
        embed=EmbedOptions(**{name: rest.pop(name) for name in EMBED_OPTIONS}),
        **rest,
    )


def _run(plan: Plan, progress: IngestProgress) -> tuple[int, str]:
    """Ingest; the exit status, and the last line to print."""
    resume = "Run the same command again to continue."
    try:
        journal = asyncio.run(_until_terminated(plan, progress))
    except KeyboardInterrupt:
        return INTERRUPTED, f"Interrupted with {progress.rows:,} vectors written. {resume}"
    except asyncio.CancelledError:
        return TERMINATED, f"Terminated with {progress.rows:,} vectors written. {resume}"
    except Occupied as error:
        return CANNOT_RESUME, f"Error: {error}."
    except (CannotResume, FingerprintMismatch) as error:
        return CANNOT_RESUME, f"Error: {error}.\nUse another --out, or --start-over to replace {plan.out}."
    except PASSING as error:
        return NO_ANSWER, f"Error: {error}.\n{progress.rows:,} vectors are written. {resume}"
    except ClientError as error:
        return REFUSED, f"Error: {explained(error, plan.api_key)}.\n{progress.rows:,} vectors are written. {resume}"
    except OSError as error:
        return FILE_FAULT, f"Error: {error}.\n{progress.rows:,} vectors are written. {resume}"
    if not journal.counts.rows:
        return NOTHING_USABLE, f"Error: no line of {plan.source} was usable.\n{_summary(plan, journal)}"
    return 0, _summary(plan, journal)


async def _until_terminated(plan: Plan, progress: IngestProgress) -> Journal:
    """Ingest until done, or until SIGTERM cancels it; asyncio does the same for Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await ingest_plan(plan, progress)


def _summary(plan: Plan, journal: Journal) -> str:
    counts = journal.counts
    lines = [f"{plan.out}: {counts.rows:,} vectors of {journal.origin.dimensions} dimensions, {counts.tokens:,} tokens"]
    if counts.tiers:
        lines.append(f"served by: {tier_shares(counts.tiers)}")
    lines.append(str(Tally(counts.rows, Counter(counts.faults) + Counter({Fault.BLANK.value: counts.blank_lines}))))
    if counts.bad_lines:
        lines.append(f"{counts.bad_lines:,} bad lines set aside in {Paths(plan.out).bad}")
    if (
        plan.form.format is Format.JSONL
        and 2 * counts.faults.get(Fault.NOT_JSON, 0) > counts.lines - counts.blank_lines
    ):
        lines.append(f"{plan.source} was read as JSON Lines. If it has one text a line, add --format text.")
    return "\n".join(lines)
