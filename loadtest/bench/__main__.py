"""`python -m loadtest.bench`: the benchmarks' command line; without a name it runs all that need nothing of others."""

import click

from loadtest.bench.caches import caches
from loadtest.bench.capacity import capacity
from loadtest.bench.engine import engine
from loadtest.bench.engines import engines
from loadtest.bench.gateway import gateway
from loadtest.bench.norepeat import norepeat
from loadtest.bench.peers import peers


@click.group(invoke_without_command=True)
@click.pass_context
def bench(context: click.Context) -> None:
    """Benchmarks: contenders measured side by side in alternating rounds, reported as ratios.

    Without a command: `gateway`, `engine`, `capacity`, then `norepeat`, with their defaults. On a machine with two
    cores or more, give `--core 0 --generator-core 1`.
    """
    if context.invoked_subcommand is None:
        for command in (gateway, engine, capacity, norepeat):
            context.invoke(command)


for named in (gateway, engine, engines, capacity, norepeat, peers, caches):
    bench.add_command(named)

if __name__ == "__main__":
    bench()
