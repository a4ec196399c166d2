"""The options of `dejavec loadtest`, and what they mean together."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from common.output_file import OutputFile
from common.texts import Format
from common.texts.options import bad_lines_option, field_option, format_option
from loadtest.addresses import engine_beside
from loadtest.plan import Source
from loadtest.server_watch import ENGINE, GATEWAY
from loadtest.workload import Batches, Drawing, Law, Pace

POSITIVE = click.FloatRange(min=0, min_open=True)
SHARE = click.FloatRange(0, 1)
FEWEST = 200  # requests in a step of --find-rate, so that its 99th percentile is not one of the two slowest


def _file(*, dash: bool = False) -> click.Path:
    return click.Path(exists=True, dir_okay=False, allow_dash=dash, path_type=Path)


def _batches(_context: click.Context, _parameter: click.Parameter, value: str) -> Batches:
    try:
        return Batches.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@dataclass
class Options:
    """What was given, by the names of the options."""

    url: str
    rate: float
    seconds: float
    warmup: float
    texts_file: Path | None
    format: Format | None
    field: str
    pair_field: str
    time_field: str
    bad_lines_file: Path | None
    workload: Law
    exponent: float
    repeat_share: float | None
    distance: int
    edit_share: float
    chunk_characters: int
    pace: Pace
    speed: float
    batches: Batches
    seed: int
    write_workload: Path | None
    read_workload: Path | None
    model: str
    api_key: str
    engine_url: str
    scrape: bool
    connections: int
    max_in_flight: int
    timeout_s: float
    cache_control: str | None
    verify_share: float
    fidelity: float
    find_rate: bool
    p99_ms: float
    compare: tuple[Path, Path] | None
    json_file: Path | None
    html_file: Path | None

    @property
    def source(self) -> Source:
        """Where the texts come from."""
        return Source(self.texts_file, self.format, self.field, self.pair_field, self.time_field, self.bad_lines_file)

    @property
    def drawing(self) -> Drawing:
        """How they are drawn."""
        return Drawing(
            self.workload, self.exponent, self.repeat_share, self.distance, self.edit_share, self.chunk_characters
        )

    def check(self) -> None:
        """Refuse options that contradict each other. Raises ValueError."""
        if self.compare is not None and self.html_file is None:
            raise ValueError("--compare makes a page: say where with --html")
        if self.repeat_share is not None and self.workload is not Law.ZIPF:
            raise ValueError("--repeat-share is of --workload zipf")
        if self.find_rate and (self.read_workload or self.write_workload or self.pace is Pace.RECORDED):
            raise ValueError("--find-rate draws its own times: leave out --read-workload, --write-workload, recorded")
        if self.find_rate and self.rate * self.seconds < FEWEST:
            raise ValueError(
                f"--find-rate needs {FEWEST} requests a step for a 99th percentile: raise --rate or --seconds"
            )
        if self.read_workload and (self.write_workload or self.texts_file):
            raise ValueError("--read-workload has its own texts and times: leave out --texts and --write-workload")

    @property
    def metrics_urls(self) -> dict[str, str]:
        """Where /metrics is read, by server; the engine's is guessed beside a gateway that `up` may have started."""
        if not self.scrape:
            return {}
        return {GATEWAY: self.url, ENGINE: self.engine_url or engine_beside(self.url)}


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--url", help="The gateway (setting client_url), or any server of OpenAI's contract."),
    click.option("--rate", default=200.0, show_default=True, type=POSITIVE, help="Requests a second."),
    click.option("--seconds", default=30.0, show_default=True, type=POSITIVE, help="How long to measure."),
    click.option(
        "--warmup", default=0.0, show_default=True, type=click.FloatRange(min=0), help="Seconds before, not counted."
    ),
    click.option(
        "--texts",
        "texts_file",
        type=_file(dash=True),
        help="One text a line, or JSON Lines, CSV, TSV, Parquet; plain or gzip; - is standard input. By default a "
        "small file of our own.",
    ),
    format_option(),
    field_option,
    click.option(
        "--pair-field",
        default="paraphrase",
        show_default=True,
        help="Of paraphrases: the field with the other text of the pair.",
    ),
    click.option(
        "--time-field", default="time", show_default=True, help="Of --pace recorded: the field with the time."
    ),
    bad_lines_option,
    click.option(
        "--workload",
        default=Law.REPLAY,
        show_default=True,
        type=click.Choice(Law, case_sensitive=False),
        help="How texts are drawn: the file in order; by rank; evenly; none twice; pairs of paraphrases; release after "
        "release with edits; joined to long chunks.",
    ),
    click.option("--exponent", default=1.0, show_default=True, type=click.FloatRange(0, 4), help="Of the Zipf law."),
    click.option(
        "--repeat-share", type=SHARE, help="Of zipf: this share repeats an earlier text, the rest is new; no more."
    ),
    click.option(
        "--distance",
        default=100,
        show_default=True,
        type=click.IntRange(1, 1_000_000),
        help="Of paraphrases: texts from the first to the second of a pair.",
    ),
    click.option(
        "--edit-share", default=0.1, show_default=True, type=SHARE, help="Of revisions: texts edited in each release."
    ),
    click.option(
        "--chunk-characters",
        default=1000,
        show_default=True,
        type=click.IntRange(1, 1_000_000),
        help="Of bulk: characters that a chunk has at least.",
    ),
    click.option(
        "--pace",
        default=Pace.POISSON,
        show_default=True,
        type=click.Choice(Pace, case_sensitive=False),
        help="How arrivals are spaced; recorded: by the file's own times.",
    ),
    click.option(
        "--speed", default=1.0, show_default=True, type=POSITIVE, help="Of --pace recorded: so many times as fast."
    ),
    click.option(
        "--batch",
        "batches",
        default="1",
        show_default=True,
        metavar="SIZES",
        callback=_batches,
        help="Texts a request; sizes with weights, such as 1:90,32:10, mix them.",
    ),
    click.option("--seed", default=0, show_default=True, help="Same seed, same arrivals and texts."),
    click.option(
        "--write-workload", type=OutputFile(), help="Write every request with its time, to be sent again exactly."
    ),
    click.option("--read-workload", type=_file(), help="Send what --write-workload wrote."),
    click.option("--model", default="", help="Model name; the first of /v1/models by default."),
    click.option("--api-key", help="Sent as a bearer token (setting client_api_key); '' sends none."),
    click.option(
        "--engine-url",
        default="",
        help="The engine whose /metrics are in the report; found by itself beside a gateway of `dejavec up`.",
    ),
    click.option("--scrape/--no-scrape", default=True, help="Read /metrics once a second meanwhile."),
    click.option(
        "--connections", default=256, show_default=True, type=click.IntRange(min=1), help="Most connections at once."
    ),
    click.option(
        "--max-in-flight",
        default=2000,
        show_default=True,
        type=click.IntRange(min=1),
        help="Arrivals beyond this many unanswered requests are dropped and counted.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        default=30.0,
        show_default=True,
        type=POSITIVE,
        help="Seconds until a request counts as failed.",
    ),
    click.option(
        "--cache-control",
        type=click.Choice(["no-store", "no-cache", "exact-only"]),
        help="Sent as x-cache-control with each request: caches to leave out.",
    ),
    click.option(
        "--verify",
        "verify_share",
        default=0.0,
        show_default=True,
        type=SHARE,
        help="Share of cached answers to compute again and compare, after the load.",
    ),
    click.option(
        "--fidelity",
        default=0.92,
        show_default=True,
        type=SHARE,
        help="Cosine below which a served vector is a false reuse.",
    ),
    click.option("--find-rate", is_flag=True, help="Look for the highest rate that keeps --p99-ms, from --rate on."),
    click.option("--p99-ms", default=30.0, show_default=True, type=POSITIVE, help="Of --find-rate: the bound."),
    click.option(
        "--compare",
        nargs=2,
        type=_file(),
        metavar="A.json B.json",
        help="Two reports of --json on one page, --html; nothing is sent.",
    ),
    click.option("--json", "json_file", type=OutputFile(), help="Write the report as JSON."),
    click.option("--html", "html_file", type=OutputFile(), help="Write the report as one HTML page with plots."),
)


def load_options(command: Callable[..., None]) -> Callable[..., None]:
    """All options on a command, in the order of OPTIONS."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
