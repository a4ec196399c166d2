"""`python -m loadtest.bench`: the benchmarks' command line; without a name it measures all aims."""

import click

from loadtest.bench.aims import aims
from loadtest.bench.caches import caches
from loadtest.bench.capacity import capacity
from loadtest.bench.engine import engine
from loadtest.bench.engines import engines
from loadtest.bench.gateway import gateway
from loadtest.bench.norepeat import norepeat
from loadtest.bench.peers import peers
from loadtest.bench.products import products
from loadtest.bench.replays.cli import replays

HELP = ("--help", "-h")


class AimsByDefault(click.Group):
    """A group that takes options without a command as those of `aims`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name where none is."""
        if not args or (args[0].startswith("-") and args[0] not in HELP):
            args = [str(aims.name), *args]
        return super().parse_args(ctx, args)


@click.group(cls=AimsByDefault)
def bench() -> None:
    """Benchmarks: contenders measured side by side in alternating rounds, reported as ratios.

    Without a command: `aims`, which runs the short form of four of them and ends in one table of all aims. On a machine
    with two cores or more, give the others `--core 0 --generator-core 1`.
    """


for named in (aims, gateway, engine, engines, capacity, norepeat, products, replays, peers, caches):
    bench.add_command(named)

if __name__ == "__main__":
    bench()
