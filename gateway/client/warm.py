"""`dejavec cache warm`: texts computed by a running gateway, so that they are hits from now on."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track

from common.gateway_url import base_url
from common.texts import BadLines, Format, Record, Tally, TextFile, form_of
from common.texts.options import bad_lines_option, field_option, format_option
from engine.configuration import load
from gateway.client.client import AsyncClient
from gateway.client.errors import ClientError
from gateway.client.narrowing import embed_records
from gateway.client.settings import ClientSettings, explained

TEXTS_AT_ONCE = 64


@dataclass(slots=True)
class _Warmed:
    """`tiers`: texts by the tier that answered them."""

    tally: Tally = field(default_factory=Tally)
    tiers: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        by_tier = ", ".join(f"{name} {count:,}" for name, count in sorted(self.tiers.items()))
        return f"{self.tiers.total():,} texts: {by_tier or 'none'}\n{self.tally}"


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--url", help="The gateway (client_url, else this machine's).")
@format_option()
@field_option
@bad_lines_option
def warm(source: Path, url: str | None, format: Format | None, field: str, bad_lines_file: Path | None) -> None:
    """Have the texts of SOURCE computed, so that they are hits from now on.

    SOURCE holds one text a line, or is JSON Lines, CSV, TSV or Parquet; plain or gzip; - is standard input. A line that
    cannot be used is passed over and counted. The exit status is 1 when none could be used.
    """
    settings = load(ClientSettings, client_url=url)
    warmed = _Warmed()
    try:
        base_url(settings.gateway_url)
        with (
            TextFile(source, form_of(source, format, text_field=field)) as file,
            BadLines(bad_lines_file) as bad_lines,
        ):
            asyncio.run(_warm(settings, file, bad_lines, warmed))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except (ClientError, OSError) as error:
        why = explained(error, _key(settings)) if isinstance(error, ClientError) else error
        raise click.ClickException(f"{why}\nBefore that: {warmed}") from None
    if not warmed.tally.used:
        raise click.ClickException(f"no text of {source} could be used: {warmed.tally}")
    click.echo(str(warmed))


async def _warm(settings: ClientSettings, file: TextFile, bad_lines: BadLines, warmed: _Warmed) -> None:
    """Raises ClientError, SourceError, OSError."""
    console = Console(stderr=True)
    async with AsyncClient(settings.gateway_url, api_key=_key(settings)) as client:
        batches = _batches(file, bad_lines, warmed.tally)
        for batch in track(batches, "warming", console=console, disable=not console.is_terminal):
            results, refused = await embed_records(client, batch, cache_control="exact-only")
            for result in results:
                warmed.tiers.update(result.tiers)
                warmed.tally.used += len(result.tiers)
            for bad in refused:
                warmed.tally.add(bad)
                bad_lines.add(bad)


def _key(settings: ClientSettings) -> str | None:
    return settings.client_api_key.get_secret_value() if settings.client_api_key else None


def _batches(file: TextFile, bad_lines: BadLines, tally: Tally) -> Iterator[list[Record]]:
    """The file's texts, which are counted once they are warm; what cannot be used is counted and listed."""

    def usable() -> Iterator[Record]:
        for row in file.rows():
            if isinstance(row, Record):
                yield row
            else:
                tally.add(row)
                bad_lines.add(row)

    texts = usable()
    while batch := list(islice(texts, TEXTS_AT_ONCE)):
        yield batch
