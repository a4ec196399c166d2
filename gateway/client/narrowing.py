"""Texts that a gateway refuses, found among those of a request: it is halved until they stand alone."""

from collections.abc import Sequence
from typing import Unpack

from common.texts import BadLine, Fault, Record
from gateway.client.client import AsyncClient
from gateway.client.errors import RequestRefused
from gateway.client.sync import EmbedOptions
from gateway.client.wire import EmbedResult


async def embed_records(
    client: AsyncClient, records: Sequence[Record], **options: Unpack[EmbedOptions]
) -> tuple[list[EmbedResult], list[BadLine]]:
    """Results that together hold the records in order, without those that the gateway refuses; and those.

    Raises ClientError, RequestRefused among them where it is not about single texts.
    """
    if not records:
        return [], []
    try:
        return [await client.embed([record.text for record in records], **options)], []
    except RequestRefused as refusal:
        if not _is_about_input(refusal):
            raise
        if len(records) == 1:
            reason = f"refused by the gateway: {refusal.message}"
            return [], [BadLine(records[0].line, reason, Fault.REFUSED)]
    middle = len(records) // 2
    left, left_refused = await embed_records(client, records[:middle], **options)
    right, right_refused = await embed_records(client, records[middle:], **options)
    return left + right, left_refused + right_refused


def _is_about_input(refusal: RequestRefused) -> bool:
    """Whether a refusal may be the fault of single texts, and not of the options or the address."""
    return refusal.status == 413 or (refusal.param or "").startswith("input")
