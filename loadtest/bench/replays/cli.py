"""`python -m loadtest.bench replays`: streams in, a table, a picture, figures out."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from common.document_table import replace_table
from common.output_file import OutputFile
from loadtest.bench.machine import describe
from loadtest.bench.options import DEFAULT_BUNDLE
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.replays import sources
from loadtest.bench.replays.picture import draw
from loadtest.bench.replays.report import MARKER, Replays, markdown
from loadtest.bench.replays.run import SEMANTIC_ON, Plan, replay
from loadtest.bench.stack import check_bundle
from loadtest.display import wide_console
from loadtest.texts import TextsError

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = OutputFile()
SHOWN = (
    "count",
    "batched",
    "connections",
    "rounds",
    "verify",
    "core",
    "client_core",
)  # in the command that a document names


@click.command("replays")
@click.option(
    "--data", type=FOLDER, help="Folder with web_query_log, banking77, revisions, rag_chunks, or some of them."
)
@click.option(
    "--stream",
    "streams",
    multiple=True,
    metavar="NAME=FILE[,FILE][:FIELD[:N]]",
    help="A stream of one's own, N texts in a request. Several may be given.",
)
@click.option(
    "--count", default=2000, show_default=True, type=click.IntRange(0), help="Texts of a stream of singles; 0: all."
)
@click.option(
    "--batched", default=960, show_default=True, type=click.IntRange(0), help="Of one with more in a request; 0: all."
)
@click.option(
    "--connections", default=8, show_default=True, type=click.IntRange(1, 256), help="Single texts at a time."
)
@click.option(
    "--bulk-connections", default=2, show_default=True, type=click.IntRange(1, 64), help="Larger requests at a time."
)
@click.option(
    "--rounds", default=1, show_default=True, type=click.IntRange(1), help="Each stream and setting so often."
)
@click.option(
    "--verify", default=0.25, show_default=True, type=click.FloatRange(0, 1), help="Share of hits computed again."
)
@click.option("--semantic-on", is_flag=True, help="Also with semantic_mode on, which serves before it has proof.")
@click.option("--core", type=int, help="Pin all servers to this core.")
@click.option("--client-core", type=int, help="Pin what sends to this one.")
@click.option(
    "--bundle",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_BUNDLE,
    show_default=True,
    help="Model bundle that the engine serves.",
)
@click.option("--json", "json_file", type=OUTPUT, help="Write all figures.")
@click.option("--picture", type=OUTPUT, help="Write an SVG.")
@click.option("--markdown", "markdown_file", type=OUTPUT, help="Write the table as Markdown.")
@click.option("--document", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Replace its table.")
@click.pass_context
def replays(context: click.Context, /, **options: Any) -> None:
    """Recorded streams through the whole product with cache off, exact only, and everything on.

    Starts `dejavec up` for each stream and setting, with its defaults. Ends in one table: CPU time, latency, tiers,
    hits that were checked; what is worse than without a cache stands first. --document replaces what is between
    <!-- replays --> and <!-- /replays -->.
    """
    try:
        done = _run(context, options)
    except (BenchmarkError, TextsError) as error:
        raise click.ClickException(str(error)) from None
    done.show(wide_console())
    if options["json_file"] is not None:
        options["json_file"].write_bytes(done.to_json())
    picture, document = options["picture"], options["document"]
    if picture is not None:
        picture.write_text(draw(done), encoding="utf-8")
    if options["markdown_file"] is not None:
        options["markdown_file"].write_text(
            markdown(done, _link(picture, options["markdown_file"])) + "\n", encoding="utf-8"
        )
    if document is not None:
        text = document.read_text(encoding="utf-8")
        document.write_text(replace_table(text, MARKER, markdown(done, _link(picture, document))), encoding="utf-8")


def _run(context: click.Context, options: dict[str, Any]) -> Replays:
    bundle = check_bundle(options["bundle"])
    if options["document"] is not None:
        replace_table(options["document"].read_text(encoding="utf-8"), MARKER, "")  # refuses one without the markers
    found = [sources.parse(text) for text in options["streams"]]
    if options["data"] is not None:
        found += sources.of_folder(options["data"])
    if not found:
        raise click.UsageError("name texts with --data or --stream")
    if len({one.name for one in found}) < len(found):
        raise click.UsageError("give each stream another name")
    streams = [one.read((options["count"] if one.size == 1 else options["batched"]) or None) for one in found]
    machine = describe(options["core"], options["client_core"], "closed loop")  # before the load, which would be in it
    plan = Plan(options["connections"], options["bulk_connections"], options["rounds"], options["verify"])
    if options["semantic_on"]:
        plan = replace(plan, settings=(*plan.settings, SEMANTIC_ON))
    date = datetime.now(UTC).date().isoformat()
    replayed = replay(
        streams,
        plan,
        bundle=bundle,
        core=options["core"],
        client_core=options["client_core"],
        console=wide_console(),
    )
    command = _command(context, options)
    return Replays(date, machine, command, plan.fidelity, plan.verify_share, replayed)


def _command(context: click.Context, options: dict[str, Any]) -> str:
    """The command without this machine's paths."""
    parts = ["python -m loadtest.bench replays"]
    if options["data"] is not None:
        parts.append("--data FOLDER")
    parts += ["--stream ..."] if options["streams"] else []
    parts += ["--semantic-on"] if options["semantic_on"] else []
    given = click.core.ParameterSource.COMMANDLINE
    parts += [
        f"--{name.replace('_', '-')} {options[name]:g}" for name in SHOWN if context.get_parameter_source(name) is given
    ]
    return " ".join(parts)


def _link(picture: Path | None, document: Path) -> str | None:
    return None if picture is None else os.path.relpath(picture, document.parent).replace(os.sep, "/")
