"""One question of a command to a running gateway, and its answer as a table."""

import asyncio
from typing import Any

import aiohttp
import click
import orjson
from pydantic import SecretStr

from common.credentials import shown_url, shown_urls_in
from common.gateway_url import base_url
from common.reply_parsing import error_in

TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024


def ask(url: str, method: str, path: str, credential: SecretStr | None, body: dict[str, Any] | None = None) -> Any:
    """The JSON that a gateway answers. Raises click.ClickException with the gateway's own message."""
    headers = {"authorization": f"Bearer {credential.get_secret_value()}"} if credential else {}
    try:
        return asyncio.run(_call(method, base_url(url) + path, headers, body))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = "" if isinstance(error, aiohttp.InvalidURL) else shown_urls_in(str(error))
        raise click.ClickException(f"{shown_url(url)} does not answer: {reason or type(error).__name__}") from None


def print_table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as what they hold, two spaces apart, whatever the terminal."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


async def _call(method: str, url: str, headers: dict[str, str], body: dict[str, Any] | None) -> Any:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, url, headers=headers, json=body) as answer,
    ):
        content = b""
        while part := await answer.content.read(MAX_ANSWER_BYTES - len(content)):  # what has arrived, not all of it
            content += part
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise click.ClickException(
            f"{shown_url(url)} answers {answer.status} and no JSON: is it a dejavec gateway?"
        ) from None
    if answer.status != 200:
        message = error_in(content).get("message")
        raise click.ClickException(str(message or f"{shown_url(url)} answers {answer.status}"))
    return parsed
