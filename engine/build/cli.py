"""`dejavec model build` and `dejavec model show`: the builder and the bundle as a person sees them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.build.bundle_builder import build_bundle
from engine.build.checkpoint import default_checkpoint, open_checkpoint
from engine.build.errors import BuildError
from engine.bundle import Bundle, BundleError, Pooling, Precision, check_files, read_bundle

DEFAULT_FOLDER = Path(".dejavec") / "models"


class Refused(click.ClickException):
    """What a person can mend; told without a trace."""

    exit_code = 2  # as for every fault of configuration


@click.group()
def model() -> None:
    """Make a model bundle from a checkpoint; look into one."""


@model.command()
@click.argument("source", required=False)
@click.option("--out", "--output", type=click.Path(path_type=Path), help="Bundle folder [.dejavec/models/NAME-int8].")
@click.option(
    "--calibration-file",
    type=click.Path(path_type=Path),
    help='Texts like your own: one a line, or JSON Lines with "text" (.jsonl). Default: a built-in mix.',
)
@click.option("--pooling", type=click.Choice(get_args(Pooling)), help="Instead of what the checkpoint says.")
@click.option("--prompts", help='JSON object or file, {"query": "query: "}, instead of what the checkpoint says.')
@click.option("--name", help="The name clients use for this model.")
@click.option("--precision", type=click.Choice(get_args(Precision)), default="int8", show_default=True)
@click.option(
    "--probe-corpus",
    type=click.Path(path_type=Path),
    help="Texts like your own that the semantic tier's probe is fitted to; takes minutes, finds more to reuse.",
)
@click.option("--force", is_flag=True, help="Build even what is there already, and keep a graph under the bar.")
def build(
    source: str | None,
    out: Path | None,
    calibration_file: Path | None,
    pooling: str | None,
    prompts: str | None,
    name: str | None,
    precision: str,
    probe_corpus: Path | None,
    force: bool,
) -> None:
    """Build a bundle from SOURCE: a checkpoint folder, or a hub id with or without @revision.

    Without SOURCE: all-MiniLM-L6-v2, from the installed data package.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        given_prompts = None if prompts is None else _read_prompts(prompts)
        source = source or str(default_checkpoint())
        if out is None:
            out = DEFAULT_FOLDER / f"{name or open_checkpoint(source).name}-{precision}"
        with _progress(console) as progress:
            bundle = build_bundle(
                source,
                out,
                calibration_file=calibration_file,
                pooling=cast(Pooling | None, pooling),
                prompts=given_prompts,
                name=name,
                precision=cast(Precision, precision),
                force=force,
                probe_corpus=probe_corpus,
                progress=progress,
            )
    except BuildError as error:
        raise Refused(str(error)) from None
    click.echo(f"{bundle.model}: {out}")


@model.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def show(bundle: Path) -> None:
    """Print what BUNDLE is, where each choice came from and how good it was measured to be."""
    try:
        content = read_bundle(bundle)
        check_files(bundle, content)
    except BundleError as error:
        raise Refused(str(error)) from None
    Console(highlight=False).print(_table(content))


def _table(bundle: Bundle) -> Table:
    table = Table(title=bundle.model, title_justify="left", show_header=False)
    for name, value in bundle.model_dump(exclude={"recipe", "provenance", "quality", "model"}).items():
        origin = f"  [dim]from {escape(bundle.provenance[name])}[/dim]" if name in bundle.provenance else ""
        table.add_row(name, escape(str(value)) + origin)
    for section in ("quality", "recipe"):
        table.add_section()
        for name, value in getattr(bundle, section).items():
            table.add_row(f"{section}: {name}", escape(str(value)))
    return table


def _read_prompts(given: str) -> dict[str, str]:
    """`--prompts` as an object; it is a file's name unless it starts with a brace."""
    try:
        content: Any = orjson.loads(given if given.lstrip().startswith("{") else Path(given).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise click.BadParameter(f"{given!r} is neither a JSON object nor a file with one: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise click.BadParameter('prompts are a JSON object of texts, {"query": "query: "}')
    return content


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A spinner with the current step on a terminal; one line a step everywhere, so that logs show the same."""
    if not console.is_terminal:
        yield click.echo
        return
    with console.status("building") as status:

        def tell(step: str) -> None:
            console.print(step, markup=False)
            status.update(escape(step))

        yield tell
