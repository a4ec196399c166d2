"""The `up` command: everything on one machine, in one terminal, ended by one Ctrl-C."""

import asyncio
import contextlib
import itertools
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

from common.gateway_url import reachable
from deploy import leftovers, start_page
from deploy.backoff import Backoff
from deploy.child import ChildSpec, WatchPolicy
from deploy.embedded_redis import NotAvailable, configure, locate
from deploy.local import DEJAVEC, Plan, check_ports, engine_child, gateway_child, redis_child
from deploy.orphan_guard import OrphanGuard
from deploy.output import Output
from deploy.own_engines import measured_costs, share_cores, shown_shares
from deploy.probes import get
from deploy.settings import SupervisorSettings
from deploy.supervisor import OWN_NAME, Policy, StartRefused, Supervisor, first_of
from engine.bundle import BundleError, read_bundle
from engine.configuration import ConfigurationError, load
from engine.exit_status import CANNOT_START
from engine.model.topology import usable_cores
from engine.settings import EngineSettings
from gateway.settings import GatewaySettings

SERVING_CHECK_S = 0.2
SERVING_CHECKS_BETWEEN_LINES = 50
LOOKS_PER_WORKER = 8
SUBFOLDERS = ("logs", "redis", "run")  # of the data folder, each to be written to


@click.command("up")
@click.option("--port", type=int, help="Port of the gateway (gateway_port, 8080).")
@click.option("--engine-port", type=int, help="Port of the engine, of several the first (engine_port, 8081).")
@click.option("--workers", type=int, help="Gateway workers (gateway_workers, 1).")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder for all data (data_dir, .dejavec).")
def up(port: int | None, engine_port: int | None, workers: int | None, data_dir: Path | None) -> None:
    """Start Redis, an engine for each model, and the gateway on this machine; Ctrl-C stops all of them.

    Builds the default model bundle first when there is none. With DEJAVEC_REDIS_URL set your own Redis is used
    instead of the embedded one, with DEJAVEC_ENGINE_URL or DEJAVEC_ENGINES engines that run elsewhere.
    """
    plan = Plan(
        load(SupervisorSettings, data_dir=data_dir),
        load(EngineSettings, engine_port=engine_port),
        load(GatewaySettings, gateway_port=port, gateway_workers=workers),
    )
    held = open_data_dir(plan)
    check_ports(plan)
    if plan.supervisor.models:
        plan = _shared(plan)
    elif plan.own_engines:
        provide_bundle(plan)
    sys.exit(asyncio.run(serve(plan, held)))


def open_data_dir(plan: Plan) -> int:
    """Make the data folder, lock it and try to write; returns the lock. Raises ConfigurationError, ClickException."""
    folder, children = plan.data_dir, ["redis", *(engine.child for engine in plan.own_engines), "gateway"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = leftovers.take_over(folder / "up.lock", _record_path(folder), click.echo)
        for part in SUBFOLDERS:
            (folder / part).mkdir(exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder / part) as trial:
                trial.write(b"there is room")
        for name in (OWN_NAME, *children):
            with (folder / "logs" / f"{name}.log").open("ab"):
                pass
    except leftovers.FolderInUse as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise _unusable(folder, error) from None
    return held


def _record_path(folder: Path) -> Path:
    """Where the children that run are recorded."""
    return folder / "run" / "children"


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    place = error.filename or folder
    return ConfigurationError(
        f"data_dir: {place} cannot be used ({error.strerror}); mend that, or name another folder (DEJAVEC_DATA_DIR)"
    )


def provide_bundle(plan: Plan) -> None:
    """Build the default model's bundle where it is missing. Raises ConfigurationError for another bundle."""
    try:
        read_bundle(plan.model_bundle)
        return
    except BundleError as error:
        if "model_bundle" in plan.engine.model_fields_set:
            raise ConfigurationError(f"model_bundle: {error}") from None
    click.echo(f"Building the default model bundle in {plan.model_bundle} (once, about a minute)")
    command = [*DEJAVEC, "model", "build", "--output", str(plan.model_bundle)]
    if subprocess.run(command, check=False).returncode != 0:
        raise click.ClickException("the model bundle could not be built; the reason is in the lines above")


def _shared(plan: Plan) -> Plan:
    """With runs for each model by its measured cost. Raises ConfigurationError for settings that do not go together."""
    for name, settings in (("model_bundle", plan.engine), ("engine_url", plan.gateway)):
        if name in settings.model_fields_set:
            raise ConfigurationError(f"models and {name} are both set: leave one of them out")
    bundles = {engine.name: engine.bundle for engine in plan.own_engines}
    for bundle in bundles.values():
        try:
            read_bundle(bundle)
        except BundleError as error:
            raise ConfigurationError(f"models: {error}") from None
    if len(bundles) == 1 or plan.engine.engine_sessions or plan.engine.engine_threads:
        return plan
    cores = max(1, math.floor(usable_cores()))
    click.echo(f"Measuring what a token costs with each of {len(bundles)} models")
    costs = measured_costs(bundles)
    if not costs:
        click.echo("One of them cannot be measured: each engine takes all cores, and they take turns")
        return plan
    shares = share_cores(cores, costs)
    click.echo(shown_shares(cores, costs, shares))
    return replace(plan, sessions=shares)


async def serve(plan: Plan, lock_descriptor: int) -> int:
    """Run everything until a signal to stop; returns the exit status.

    When a child that the others need cannot start, everything ends, and the last line is its reason.
    """
    refusal = ""
    log = Output(plan.data_dir / "logs")
    record = leftovers.ChildRecord(_record_path(plan.data_dir))
    guard = OrphanGuard(inherit=(lock_descriptor,), record=record)
    supervisor = Supervisor(_policy(plan.supervisor), guard, log, inherit=(lock_descriptor,))
    with contextlib.closing(log), _stop_signals(supervisor, log) as stop:
        try:
            await first_of(stop.wait(), _bring_up(plan, supervisor, log))
            await first_of(stop.wait(), supervisor.watch())
        except (StartRefused, ConfigurationError) as error:
            refusal = str(error)
        finally:
            await supervisor.stop()
            guard.close()
            log(OWN_NAME, "stopped")
        if refusal:
            log(OWN_NAME, refusal)
    return CANNOT_START if refusal else 0


async def _bring_up(plan: Plan, supervisor: Supervisor, log: Output) -> None:
    """Start all children, wait until they answer, show where. Raises StartRefused, ConfigurationError."""
    embedded, redis_url, without_redis = _choose_redis(plan, log)
    engines = [engine_child(plan, engine) for engine in plan.own_engines]
    await supervisor.start([*embedded, *engines, gateway_child(plan, redis_url)])
    await supervisor.unless_refused(_until_serving(plan, log))
    start_page.show(plan, await start_page.find(plan, redis_url, without_redis))


async def _until_serving(plan: Plan, log: Output) -> None:
    """Wait until the gateway reports that it can embed; log every now and then why it cannot.

    Any of its workers may answer a look, so that several in a row must find it ready.
    """
    host, port = reachable(plan.gateway.gateway_host), plan.gateway.gateway_port
    workers = plan.gateway.gateway_workers
    needed, ready = 1 if workers == 1 else LOOKS_PER_WORKER * workers, 0
    for attempt in itertools.count(1):
        answer = await get(host, port, "/ready", plan.supervisor.watch_interval_s)
        if answer and answer.status == 200:
            ready += 1
            if ready == needed:
                return
            continue
        ready = 0
        if attempt % SERVING_CHECKS_BETWEEN_LINES == 0:
            log(
                OWN_NAME, f"the gateway is not ready: {answer.body.decode(errors='replace') if answer else 'no answer'}"
            )
        await asyncio.sleep(SERVING_CHECK_S)


def _choose_redis(plan: Plan, log: Output) -> tuple[list[ChildSpec], str | None, str]:
    """The embedded Redis to start if any, the URL for the gateway, and why there is none. Raises ConfigurationError."""
    if plan.gateway.redis_url:
        return [], plan.gateway.redis_url, ""
    try:
        binaries = locate()
    except NotAvailable as reason:
        log(OWN_NAME, f"running with the in-process cache alone: {reason}")
        return [], None, str(reason)
    memory_mb = plan.supervisor.redis_maxmemory_mb
    try:
        instance = configure(plan.data_dir / "redis", binaries, maxmemory_mb=memory_mb)
    except OSError as error:
        raise _unusable(plan.data_dir, error) from None
    return [redis_child(instance, plan.supervisor)], instance.url, ""


def _policy(settings: SupervisorSettings) -> Policy:
    return Policy(
        WatchPolicy(settings.start_timeout_s, settings.watch_interval_s, settings.watch_failures),
        lambda: Backoff(settings.restart_delay_s, settings.restart_delay_max_s, settings.restart_stable_s),
    )


@contextlib.contextmanager
def _stop_signals(supervisor: Supervisor, log: Output) -> Iterator[asyncio.Event]:
    """An event set by the first SIGINT, SIGTERM or SIGHUP; the second kills the children at once."""
    stop = asyncio.Event()

    def on_signal(name: str) -> None:
        if not stop.is_set():
            log(OWN_NAME, f"{name}: stopping (once more to kill)")
            stop.set()
        elif name != "SIGHUP":  # a closed terminal may send two
            log(OWN_NAME, f"{name} again: killing everything")
            supervisor.kill()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number.name)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
