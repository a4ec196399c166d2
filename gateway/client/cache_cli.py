"""`dejavec cache`: the operator's commands for a running gateway, over `/admin` and the embedding route."""

from typing import Any
from urllib.parse import urlencode

import click
import orjson

from engine.configuration import load
from gateway.client.asking import ask, print_table
from gateway.client.settings import ClientSettings
from gateway.client.warm import warm

SHOWN_CHANGES = 10
FIELDS = (
    "semantic_mode",
    "semantic_fidelity",
    "certificate_alpha",
    "similarity_threshold",
    "threshold_floor",
    "threshold_ceiling",
)
SHORT_NAMES = {"mode": "semantic_mode", "fidelity": "semantic_fidelity", "alpha": "certificate_alpha"}
CHANGE_HEADS = ("at", "namespace", "field", "old", "new", "revision", "")
MARKS = {"default": "", "configuration": "*", "live": "!"}


@click.group("cache")
def cache() -> None:
    """Look into a running gateway's cache, explain a reuse, change thresholds, purge, warm; simulate it on a log.

    All but `warm` and `simulate` need the gateway's admin_token, here as the setting client_admin_token.
    """


cache.add_command(warm)


@cache.command()
@click.option("--url", help="The gateway (client_url, else this machine's).")
def stats(url: str | None) -> None:
    """Print the statistics of the gateway worker that answers."""
    _print(_admin("GET", "/admin/stats", url))


@cache.command()
@click.argument("text")
@click.option("--namespace", default="default", show_default=True, help="Whose neighbours and certificate.")
@click.option(
    "--truth", is_flag=True, help="Let the engine compute the text: the true similarity beside the predicted."
)
@click.option("--model", help="For which model; left out: the gateway's first.")
@click.option("--url", help="The gateway (client_url, else this machine's).")
def explain(text: str, namespace: str, truth: bool, model: str | None, url: str | None) -> None:
    """Explain whether TEXT would be a semantic hit, and why."""
    body = {"text": text, "namespace": namespace, "truth": truth, "model": model}
    _print(_admin("POST", "/admin/explain", url, body))


@cache.command()
@click.option("--namespace", help="The namespace to purge.")
@click.option("--all", "everything", is_flag=True, help="Purge every namespace.")
@click.option("--url", help="The gateway (client_url, else this machine's).")
def purge(namespace: str | None, everything: bool, url: str | None) -> None:
    """Make entries unreachable, at once here and within two seconds on other gateways."""
    if everything == (namespace is not None):
        raise click.UsageError("name a --namespace, or give --all")
    _print(_admin("POST", "/admin/purge", url, {"all": True} if everything else {"namespace": namespace}))


@cache.command()
@click.option("--namespace", help="Only this one, or with --set: whose values to change.")
@click.option("--all", "everything", is_flag=True, help="With --set: change what holds where nothing else is set.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a value in all gateways while they run; FIELD=configured takes the change back. Repeatable.",
)
@click.option("--undo", is_flag=True, help="Take back the last change made while running; again: the one before.")
@click.option("--revision", type=click.IntRange(1), help="With --undo: only if this is still the last change.")
@click.option("--url", help="The gateway (client_url, else this machine's).")
def thresholds(
    namespace: str | None, everything: bool, changes: tuple[str, ...], undo: bool, revision: int | None, url: str | None
) -> None:
    """Show the policy of each namespace and where each value comes from; with --set, change it, with --undo, undo it.

    --undo goes one change further back each time. The revision of an undo takes that undo back itself.
    """
    if undo and changes:
        raise click.UsageError("give --set or --undo, not both")
    if revision is not None and not undo:
        raise click.UsageError("--revision goes with --undo")
    if changes or undo:
        if everything == (namespace is not None):
            raise click.UsageError("name a --namespace to change, or give --all")
        body: dict[str, Any] = {"all": True} if everything else {"namespace": namespace}
        if undo:
            answer = _admin("POST", "/admin/undo", url, body | ({"revision": revision} if revision else {}))
            what = ", ".join(f"{one['field']} {one['old']} -> {one['new']}" for one in answer["changed"])
            click.echo(f"Undone: {what}. {answer['note']}")
        else:
            answer = _admin("PUT", "/admin/thresholds", url, body | dict(map(_assignment, changes)))
            click.echo(answer["note"])
    query = f"?{urlencode({'namespace': namespace})}" if namespace else ""
    reply = _admin("GET", f"/admin/thresholds{query}", url)
    rows = [_threshold_row("(all)", reply["all"], None)]
    rows += [_threshold_row(name, one["in_force"], one["learned"]) for name, one in reply["namespaces"].items()]
    heads = ("namespace", *FIELDS, "serves from", "tau of on", "certified", "why tau")
    print_table(heads, rows)
    click.echo("* configured   ! changed while running")
    if reply["changes"]:
        click.echo()
        print_table(CHANGE_HEADS, [_change_row(one) for one in reply["changes"][:SHOWN_CHANGES]])


@cache.command()
@click.option("--namespace", default="default", show_default=True, help="Whose labels.")
@click.option("--model", help="Of which model; left out: the gateway's first.")
@click.option("--url", help="The gateway (client_url, else this machine's).")
def calibration(namespace: str, model: str | None, url: str | None) -> None:
    """Show, from the labels, what each threshold would reuse, and how much of that would be too far off."""
    asked = {"namespace": namespace} | ({} if model is None else {"model": model})
    reply = _admin("GET", f"/admin/calibration?{urlencode(asked)}", url)
    click.echo(f"{reply['labels']:,} labels for {reply['lookups']:,.0f} look-ups; fidelity {reply['fidelity']:g}")
    click.echo(reply["reading"])
    points = [point for point in reply["curve"] if point["reused"] > 0]
    if points:
        means = {one["z_from"]: one["mean_true_similarity"] for one in reply["bins"]}
        heads = (
            "tau",
            "reused",
            *(f"below {fidelity}" for fidelity in points[0]["violations"]),
            "true similarity here",
        )
        print_table(heads, [_curve_row(point, means.get(point["tau"])) for point in points])


def _admin(method: str, path: str, url: str | None, body: dict[str, Any] | None = None) -> Any:
    """One admin call. Raises click.ClickException with the gateway's own message."""
    settings = load(ClientSettings, client_url=url)
    return ask(settings.gateway_url, method, path, settings.client_admin_token, body)


def _assignment(text: str) -> tuple[str, str | float | None]:
    """FIELD=VALUE of --set, with the field's full name. Raises click.UsageError."""
    name, equals, value = text.partition("=")
    full = SHORT_NAMES.get(name, name)
    if not equals or full not in FIELDS:
        raise click.UsageError(f"--set {text}: give FIELD=VALUE, FIELD one of {', '.join(FIELDS)}")
    if value == "configured":
        return full, None
    if full == "semantic_mode":
        return full, value
    try:
        return full, float(value)
    except ValueError:
        raise click.UsageError(f"--set {text}: {value!r} is no number") from None


def _threshold_row(name: str, in_force: dict[str, Any], learned: dict[str, Any] | None) -> tuple[str, ...]:
    values = [f"{in_force[field]['value']}{MARKS[in_force[field]['source']]}" for field in FIELDS]
    known = learned or {}
    figures = [known.get(key) for key in ("serving_from", "tau", "certificate_tau", "reason")]
    return (name, *values, *("-" if figure is None else str(figure) for figure in figures))


def _change_row(change: dict[str, Any]) -> tuple[str, ...]:
    words = [f"undoes {change['undoes']}"] if change["undoes"] else []
    words += ["undone"] if change["undone"] else []
    return (*(str(change[name]) for name in CHANGE_HEADS if name), ", ".join(words))


def _curve_row(point: dict[str, Any], mean: float | None) -> tuple[str, ...]:
    shares = ("-" if share is None else f"{100 * share:.1f} %" for share in point["violations"].values())
    reused = f"{100 * point['reused']:.1f} %"
    return (f"{point['tau']:.3f}", reused, *shares, "-" if mean is None else f"{mean:.4f}")


def _print(answer: Any) -> None:
    click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2).decode())
