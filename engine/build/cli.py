"""`dejavec model build`, `import`, `show`, `verify`: options in, the builder's steps and the bundle's figures out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import click
import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from engine.build.bundle_builder import build_bundle
from engine.build.checkpoint.choices import refuse_unsupported
from engine.build.checkpoint.files import default_checkpoint, open_checkpoint
from engine.build.errors import BuildError
from engine.build.imported.importer import export_bundle, import_bundle
from engine.build.imported.optimum import exporter_versions
from engine.build.imported.plan import ImportOptions, settle
from engine.build.imported.source import name_of
from engine.build.verify.bundle_verifier import Report, VerifyOptions, keep_verdict, verify_bundle
from engine.build.verify.embedding import Progress
from engine.build.verify.report import as_json, show_report
from engine.bundle import Bundle, BundleError, Pooling, Precision, check_files, read_bundle
from engine.settings import Device

DEFAULT_FOLDER = Path(".dejavec") / "models"
REPORT_WIDTH = 120  # where there is no terminal to measure


class Refused(click.ClickException):
    """What a person can mend; one message without a trace."""

    exit_code = 2  # as for every fault of configuration


_out_option = click.option(
    "--out",
    "--output",
    type=click.Path(path_type=Path),
    help="Bundle folder [.dejavec/models/NAME, or NAME-PRECISION where one is given].",
)
_calibration_option = click.option(
    "--calibration-file",
    type=click.Path(path_type=Path),
    help="Texts like your own: one a line, or the text of JSON Lines, CSV, TSV or Parquet, by its suffix; plain or "
    "gzip; - is standard input. Default: a built-in mix.",
)


@click.group()
def model() -> None:
    """Make a model bundle from a checkpoint; look into one; measure it."""


@model.command()
@click.argument("source", required=False)
@_out_option
@_calibration_option
@click.option("--pooling", type=click.Choice(get_args(Pooling)), help="Overrides that of the checkpoint.")
@click.option("--prompts", help='JSON object or file, {"query": "query: "}; overrides those of the checkpoint.')
@click.option("--name", help="The name clients use for this model.")
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="fp16 is for GPUs. Default: the fastest exact one on this CPU, which is int8 unless fp32 measures faster.",
)
@click.option(
    "--static-embedding-corpus",
    type=click.Path(path_type=Path),
    help="Texts like your own to fit the semantic tier's static embedding to; takes minutes, finds more to reuse.",
)
@click.option(
    "--exporter",
    type=click.Choice(["optimum"]),
    help="Export the graph first, for types that `build` has none for, and import it. Needs the extra `export`.",
)
@click.option("--max-tokens", type=click.IntRange(min=4), help="With --exporter: the longest text, as for `import`.")
@click.option("--force", is_flag=True, help="Build even what is there already, and keep a graph under the bar.")
def build(
    source: str | None,
    out: Path | None,
    calibration_file: Path | None,
    pooling: str | None,
    prompts: str | None,
    name: str | None,
    precision: str | None,
    static_embedding_corpus: Path | None,
    exporter: str | None,
    max_tokens: int | None,
    force: bool,
) -> None:
    """Build a bundle from SOURCE: a checkpoint folder, or a hub id with or without @revision.

    Without SOURCE: all-MiniLM-L6-v2, from the installed data package.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        given_prompts = None if prompts is None else _read_prompts(prompts)
        source = source or str(default_checkpoint())
        if exporter is not None:
            if static_embedding_corpus is not None or precision == "fp16":
                raise BuildError("--static-embedding-corpus and --precision fp16 do not go with --exporter")
            given = ImportOptions(
                calibration_file=calibration_file,
                pooling=cast(Pooling | None, pooling),
                prompts=given_prompts,
                name=name,
                precision=cast(Precision | None, precision),
                max_tokens=max_tokens,
                force=force,
            )
            _import_to(source, out, given, export_bundle, console)
            return
        if max_tokens is not None:
            raise BuildError("--max-tokens goes with --exporter; the length is otherwise that of the checkpoint")
        if out is None:
            check = partial(refuse_unsupported, pooling=cast(Pooling | None, pooling), prompts=given_prompts)
            out = DEFAULT_FOLDER / "-".join(filter(None, [name or open_checkpoint(source, check).name, precision]))
        with _progress(console) as progress:
            bundle = build_bundle(
                source,
                out,
                calibration_file=calibration_file,
                pooling=cast(Pooling | None, pooling),
                prompts=given_prompts,
                name=name,
                precision=cast(Precision | None, precision),
                force=force,
                static_embedding_corpus=static_embedding_corpus,
                progress=progress,
            )
    except BuildError as error:
        raise Refused(str(error)) from None
    click.echo(f"{bundle.model}: {out}")


@model.command("import")
@click.argument("source")
@_out_option
@_calibration_option
@click.option("--pooling", type=click.Choice(get_args(Pooling)), help="Overrides that of the files.")
@click.option("--prompts", help='JSON object or file, {"query": "query: "}; overrides those of the files.')
@click.option("--name", help="The name clients use for this model.")
@click.option(
    "--precision", type=click.Choice(["int8", "fp32"]), help="Default: int8 unless fp32 measures faster on this CPU."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=4),
    help="Longest text. Default: the model's limit, 2048 at most: memory grows with the square of it.",
)
@click.option("--force", is_flag=True, help="Import even what is there already, and keep a graph under the bar.")
def import_(source: str, out: Path | None, prompts: str | None, **options: Any) -> None:
    """Make a bundle from SOURCE, an exported FP32 ONNX graph: model.onnx, a folder with it or onnx/model.onnx, or the
    hub id of a model that has one.

    For models that `build` has no graph for. tokenizer.json and config.json lie beside the graph or above onnx/.
    """
    console = Console(highlight=False, soft_wrap=True)
    try:
        given = ImportOptions(prompts=None if prompts is None else _read_prompts(prompts), **options)
        _import_to(source, out, given, import_bundle, console)
    except BuildError as error:
        raise Refused(str(error)) from None


def _import_to(
    source: str, out: Path | None, given: ImportOptions, make: Callable[..., Bundle], console: Console
) -> None:
    """By `import_bundle` or `export_bundle`. Raises BuildError."""
    if out is None:
        name = given.name or (name_of(source) if make is import_bundle else _exported_name(source, given))
        out = DEFAULT_FOLDER / "-".join(filter(None, [name, given.precision]))
    with _progress(console) as progress:
        bundle = make(source, out, given, progress)
    click.echo(f"{bundle.model}: {out}")


def _exported_name(source: str, given: ImportOptions) -> str:
    """Raises BuildError, and before anything is fetched where it cannot be exported at all."""
    exporter_versions()
    return open_checkpoint(source, partial(settle, options=given)).name


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


@model.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--texts",
    type=click.Path(path_type=Path),
    help='Texts to compare on, one a line or JSON Lines with "text" (.jsonl). Default: built-in ones kept back.',
)
@click.option("--checkpoint", help="Folder or hub id the bundle was built from, where it is not found by itself.")
@click.option(
    "--sts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="TSV with columns score, sentence1, sentence2; may be given more than once.",
)
@click.option(
    "--retrieval",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder with corpus.jsonl, queries.tsv, qrels.tsv; may be given more than once.",
)
@click.option("--speed/--no-speed", default=True, help="Measure memory and tokens per second.  [default: speed]")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of each run.")
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report here as well.")
@click.option("--keep/--no-keep", default=True, help="Keep the verdict beside BUNDLE for the engine.  [default: keep]")
def verify(bundle: Path, json_file: Path | None, keep: bool, **options: Any) -> None:
    """Measure BUNDLE on this machine against FP32 and give a verdict, by which the engine admits it.

    Exit status 1 when BUNDLE is under the bar.
    """
    try:
        with _measuring() as progress:
            report = verify_bundle(bundle, VerifyOptions(**options), progress)
    except (BuildError, BundleError) as error:
        raise Refused(str(error)) from None
    show_report(report, Console(highlight=False, width=None if sys.stdout.isatty() else REPORT_WIDTH))
    _write_report(report, json_file)
    if keep and (path := keep_verdict(report)) is not None:
        click.echo(f"kept for the engine: {path}")
    if report.shortfalls:
        raise SystemExit(1)


def _write_report(report: Report, path: Path | None) -> None:
    if path is None:
        return
    try:
        path.write_bytes(orjson.dumps(as_json(report), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    except OSError as error:
        raise Refused(f"the report could not be written: {error}") from None


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
    with ExitStack() as stack:
        status = console.status("building")
        started = False

        def report(step: str) -> None:
            nonlocal started
            if not started:  # not before the first step: while files are fetched, the hub's own bars are there
                stack.enter_context(status)
                started = True
            console.print(step, markup=False)
            status.update(escape(step))

        yield report


class _Bar:
    """Steps as lines, and within a step a bar on the terminal."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def step(self, what: str) -> None:
        """A line that stays, and a bar that waits."""
        self._bar.console.print(what, markup=False)
        self._bar.reset(self._task, description=escape(what), total=None)

    def done(self, count: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=count, total=total)


@contextmanager
def _measuring() -> Iterator[Progress]:
    """Where a verification is: on the standard error, so that the report can be sent elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Bar(bar)
