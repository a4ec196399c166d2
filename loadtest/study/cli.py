"""The `study` command: candidates and texts in; tables, a page, figures out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from common.texts.options import field_option, format_option
from loadtest.bench.machine import describe
from loadtest.bench.peers import installed_checkpoint
from loadtest.bench.processes import BenchmarkError, pinned
from loadtest.display import wide_console
from loadtest.study import cached, measure, page
from loadtest.study.candidates import LeftOut, StudyError, chosen
from loadtest.study.display import markdown, show
from loadtest.study.figures import BATCH, CHUNKS, Cached, Study
from loadtest.study.peer_help import PEERS
from loadtest.study.sources import calibration_texts, distinct_texts, make_chunks, with_repeats
from loadtest.texts import TextsError

BUNDLE = Path(".dejavec/models/all-MiniLM-L6-v2")
FOLDER = Path(".dejavec/study")
MAX_BATCH = 512
FOLDER_TYPE = click.Path(file_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command("study")
@click.option("--peer", "peers", multiple=True, metavar="NAME=PYTHON[,BACKEND.py]", help="A peer; see --list-peers.")
@click.option("--leave-out", multiple=True, metavar="NAME", help="Do not measure this one.")
@click.option("--list-peers", is_flag=True, help="Print the peers, and the command that makes each one's environment.")
@click.option(
    "--texts",
    "texts_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts that are embedded; by default the package's own hold-out.",
)
@format_option()
@field_option
@click.option("--count", default=192, show_default=True, type=click.IntRange(2, 10_000), help="Distinct texts used.")
@click.option(
    "--sizes", default="1,2,4,8,16,32,64", show_default=True, help="Batch sizes; 1 and 32 are always among them."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="In which all take turns.")
@click.option(
    "--texts-a-round",
    default=64,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="For each batch size, at least.",
)
@click.option(
    "--chunks", default=CHUNKS, show_default=True, type=click.IntRange(0, 1_000_000),
    help="Chunks of 100 to 500 characters; a smaller number is extrapolated, and says so; 0 for none.",
)  # fmt: skip
@click.option(
    "--cached", "cached_requests", default=2000, show_default=True, type=click.IntRange(0, 1_000_000),
    help="Requests without and with the cache, 68 % of them repeats; 0 for none.",
)  # fmt: skip
@click.option("--core", type=int, default=0, show_default=True, help="The core on which every candidate runs.")
@click.option("--client-core", type=int, help="The core of what measures (best: another, 1).")
@click.option("--machine-price", type=click.FloatRange(0), help="Dollars for an hour of this machine, all cores.")
@click.option("--bundle", type=FOLDER_TYPE, default=BUNDLE, show_default=True, help="This engine's model bundle.")
@click.option("--checkpoint", type=FOLDER_TYPE, help="The FP32 model; by default the installed data package's.")
@click.option("--folder", type=FOLDER_TYPE, default=FOLDER, show_default=True, help="Where converted models are kept.")
@click.option("--json", "json_file", type=OUTPUT, help="Write all figures.")
@click.option("--html", "html_file", type=OUTPUT, help="Write one HTML page with plots.")
@click.option("--markdown", "markdown_file", type=OUTPUT, help="Write the tables as Markdown.")
def study(**options: Any) -> None:
    """Measure this engine beside the usual ways to run the same model, and beside peers: speed, accuracy, size, memory.

    Each candidate runs in a process of its own on one core, with one thread, over the same texts; they take turns in
    rounds. What counts is CPU time, so that other processes disturb little. The usual ways (PyTorch, ONNX Runtime in
    FP32 and in its dynamic INT8) come with `.venv/bin/pip install -e ".[study]"`; what is missing is left out by name.

    Where something else is faster than this engine, that is the first line of every output.
    """
    if options["list_peers"]:
        click.echo(PEERS)
        return
    console = wide_console()
    try:
        done = _run(options, console)
    except (StudyError, TextsError, BenchmarkError, OSError) as error:
        raise click.ClickException(str(error)) from None
    show(done, console)
    if options["json_file"] is not None:
        options["json_file"].write_bytes(done.to_json())
    if options["html_file"] is not None:
        options["html_file"].write_text(page.render(done), encoding="utf-8")
    if options["markdown_file"] is not None:
        options["markdown_file"].write_text(markdown(done), encoding="utf-8")


def _run(options: dict[str, Any], console: Console) -> Study:
    candidates, left_out = chosen(options["peers"], options["leave_out"])
    bundle, core = options["bundle"], options["core"]
    if not (bundle / "bundle.json").is_file():
        raise StudyError(f"no model bundle at {bundle}: run `dejavec model build`, or name one with --bundle")
    with pinned(core):
        pass  # refuses a core that is not there before anything is converted
    machine = describe(core, options["client_core"], "none")
    texts = distinct_texts(options["texts_file"], options["format"], options["field"], options["count"])
    plan = measure.Plan(
        texts,
        _sizes(options["sizes"]),
        options["texts_a_round"],
        options["rounds"],
        make_chunks(texts, options["chunks"]),
    )
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with pinned(options["client_core"]):
        outcome = measure.run(
            candidates,
            plan,
            core=core,
            bundle=bundle,
            checkpoint=options["checkpoint"] or installed_checkpoint(),
            folder=options["folder"],
            calibration=calibration_texts(),
            console=console,
        )
    left_out += outcome.left_out
    if not outcome.measured:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in left_out)
        raise StudyError(f"nothing could be measured: {reasons}")
    with_cache = None
    if options["cached_requests"]:
        console.print("[dim]the gateway without and with its cache[/]")
        with_cache = _cached(texts, options, left_out)
    return Study(
        started=started,
        machine=machine,
        texts=str(options["texts_file"] or "the package's own hold-out"),
        n_texts=len(texts),
        mean_chars=sum(map(len, texts)) / len(texts),
        rounds=options["rounds"],
        baseline=outcome.baseline,
        measured=outcome.measured,
        left_out=left_out,
        cached=with_cache,
        machine_usd_per_hour=options["machine_price"],
        settings={"texts a round and size": str(options["texts_a_round"]), "bundle": bundle.name},
    )


def _cached(texts: list[str], options: dict[str, Any], left_out: list[LeftOut]) -> Cached | None:
    """What repeats are worth; where that fails, the reason is added to `left_out`, and the other figures stand."""
    stream = with_repeats(texts, options["cached_requests"], cached.REPEATS, 2 * cached.CONNECTIONS)
    try:
        return cached.measure(options["bundle"], stream, options["core"], options["client_core"])
    except BenchmarkError as error:
        left_out.append(LeftOut("the gateway without and with its cache", str(error)))
        return None


def _sizes(text: str) -> list[int]:
    """Batch sizes in order. Raises StudyError."""
    try:
        sizes = {int(part) for part in text.split(",")} | {1, BATCH}
    except ValueError:
        raise StudyError(f"--sizes {text}: give numbers with commas, such as 1,8,32") from None
    if min(sizes) < 1 or max(sizes) > MAX_BATCH:
        raise StudyError(f"--sizes {text}: sizes lie from 1 to {MAX_BATCH}")
    return sorted(sizes)
