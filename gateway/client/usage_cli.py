"""`dejavec usage`: what one API key, or every one, has used, and what its limits have left."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click
import orjson

from engine.configuration import load
from gateway.client.asking import ask, print_table
from gateway.client.settings import ClientSettings

TIERS = ("local", "exact", "semantic", "miss")
HEADS = ("requests", "refused", "tokens", *TIERS)
PAGE = 100


@click.command("usage")
@click.option("--all", "everything", is_flag=True, help="Every key, by its id; needs client_admin_token.")
@click.option("--namespace", help="With --all: only keys of this namespace.")
@click.option("--days", default=7, show_default=True, type=click.IntRange(0, 35), help="So many days of one key.")
@click.option("--json", "as_json", is_flag=True, help="What the gateway answers, one JSON object a key.")
@click.option("--url", help="The gateway (client_url, else this machine's).")
def usage(everything: bool, namespace: str | None, days: int, as_json: bool, url: str | None) -> None:
    """Show what your API key (setting client_api_key) has used, by UTC day, and what its limits have left.

    Texts are counted by the tier that answered them; refused are requests over a limit. The count of the last second or
    two may be missing.
    """
    if namespace is not None and not everything:
        raise click.UsageError("--namespace is for --all; your own key has one namespace")
    settings = load(ClientSettings, client_url=url)
    if everything:
        keys = list(_all(settings, namespace, days if as_json else 0))
    else:
        keys = [ask(settings.gateway_url, "GET", f"/v1/usage?days={days}", settings.client_api_key)]
    if as_json:
        for one in keys:
            click.echo(orjson.dumps(one).decode())
    elif everything:
        rows = [(one["key"], one["namespace"], *_figures(one["today"]), *_month(one)) for one in keys]
        print_table(("key", "namespace", *(f"{head} today" for head in HEADS[:3]), *HEADS[3:], "tokens a month"), rows)
    else:
        _print_own(keys[0])


def _all(settings: ClientSettings, namespace: str | None, days: int) -> Iterator[dict[str, Any]]:
    """Every key, a page at a time."""
    after = None
    while True:
        query = {"limit": PAGE, "days": days, "namespace": namespace, "after": after}
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        page = ask(settings.gateway_url, "GET", f"/admin/usage?{asked}", settings.client_admin_token)
        yield from page["keys"]
        after = page["next"]
        if after is None:
            return


def _print_own(one: dict[str, Any]) -> None:
    click.echo(f"key {one['key']}, namespace {one['namespace']}")
    click.echo()
    rows = [(day["date"], *_figures(day)) for day in one["days"] or [one["today"]]]
    print_table(("UTC", *HEADS), [*rows, (one["month"]["month"], *_figures(one["month"]))])
    if not one["limits"]:
        return
    click.echo()
    limits: list[tuple[str, ...]] = []
    for name, limit in one["limits"].items():
        left = limit["left"]
        parts = left.items() if isinstance(left, dict) else [("", left)]
        limits += [
            (
                f"{name.replace('_', ' ')} {part}".rstrip(),
                f"{limit['limit']:,}",
                "-" if some is None else f"{some:,}",
                limit.get("renews_at", ""),
            )
            for part, some in parts
        ]
    print_table(("limit", "of", "left", "renews"), limits)


def _figures(period: dict[str, Any]) -> tuple[str, ...]:
    figures = [period["requests"], period["refused"], period["tokens"], *(period["texts"][tier] for tier in TIERS)]
    return tuple(f"{figure:,}" for figure in figures)


def _month(one: dict[str, Any]) -> tuple[str]:
    """Tokens of this month, of its budget where there is one."""
    used, budget = one["month"]["tokens"], one["limits"].get("tokens_per_month")
    return (f"{used:,}" if budget is None else f"{used:,} of {budget['limit']:,}",)
