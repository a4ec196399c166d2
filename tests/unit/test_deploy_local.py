"""Settings become children: what is started, with which environment, and what is refused."""

import io
import json
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from deploy.child import ChildSpec
from deploy.embedded_redis import Binaries, Instance, NotAvailable, configure, locate
from deploy.local import Plan, check_ports, engine_child, gateway_child, redis_child
from deploy.own_engines import share_cores
from deploy.settings import SupervisorSettings
from deploy.start_page import Found, describe_redis, find, show
from deploy.up import open_data_dir
from engine.configuration import ConfigurationError
from engine.settings import EngineSettings
from gateway.settings import GatewaySettings
from tests.free_ports import free_port
from tests.stand_in_engine import StandInEngine


def plan(tmp_path: Path, engine: dict[str, object] | None = None, gateway: dict[str, object] | None = None) -> Plan:
    return Plan(
        SupervisorSettings(data_dir=tmp_path), EngineSettings(**(engine or {})), GatewaySettings(**(gateway or {}))
    )


NOWHERE = "http://127.0.0.2:9"
STARTED = "DEJAVEC_STARTED_ENGINES"


def only_engine(settings: Plan) -> ChildSpec:
    (engine,) = settings.own_engines
    return engine_child(settings, engine)


def started_by(gateway: ChildSpec) -> dict[str, list[str]]:
    """The URLs of the engines that a gateway is told of, by model."""
    return {name: one["urls"] for name, one in json.loads(gateway.environment[STARTED]).items()}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*filter(lambda n: n.startswith("DEJAVEC_"), os.environ), "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_what_must_be_set_before_a_start_is_set(tmp_path: Path) -> None:
    """Threads, allocator and tokenizers are told through the environment."""
    environment = only_engine(plan(tmp_path)).environment
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["MALLOC_ARENA_MAX"] == "2"
    assert environment["TOKENIZERS_PARALLELISM"] == "false"


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own OMP_NUM_THREADS wins."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "OMP_NUM_THREADS" not in only_engine(plan(tmp_path)).environment


def test_the_gateway_is_pointed_at_engine_and_redis(tmp_path: Path) -> None:
    """Another engine port reaches the gateway; the Redis URL travels in the environment, not in the command."""
    child = gateway_child(plan(tmp_path, engine={"engine_port": 9001}), "redis://:secret@127.0.0.1:7000/0")
    assert started_by(child) == {"all-MiniLM-L6-v2": ["http://127.0.0.1:9001"]}
    assert child.environment["DEJAVEC_REDIS_URL"] == "redis://:secret@127.0.0.1:7000/0"
    assert not any("secret" in word for word in child.command)


def test_data_follow_the_data_folder(tmp_path: Path) -> None:
    """Model bundle and key secret lie in data_dir unless they were set themselves."""
    assert plan(tmp_path).model_bundle.parent == tmp_path / "models"
    assert gateway_child(plan(tmp_path), None).environment["DEJAVEC_KEY_SECRET_FILE"] == str(tmp_path / "key-secret")
    own = plan(tmp_path, engine={"model_bundle": "/my/bundle"}, gateway={"key_secret_file": "/my/secret"})
    assert own.model_bundle == Path("/my/bundle")
    assert "DEJAVEC_KEY_SECRET_FILE" not in gateway_child(own, None).environment


def test_why_the_engine_is_not_started_again_reaches_the_gateway(tmp_path: Path) -> None:
    """One file in the data folder, gone before each start of the engine; none for an engine elsewhere."""
    here = plan(tmp_path)
    engine, gateway = only_engine(here), gateway_child(here, None)
    assert engine.on_refused is not None
    engine.on_refused("engine cannot start: no bundle")
    file = Path(json.loads(gateway.environment[STARTED])["all-MiniLM-L6-v2"]["refusal_file"])
    assert file.is_relative_to(tmp_path)
    assert file.read_text() == "engine cannot start: no bundle"
    engine.prepare()
    engine.prepare()
    assert not file.exists()
    elsewhere = gateway_child(plan(tmp_path, gateway={"engine_url": "http://gpu-box:8081"}), None)
    assert STARTED not in elsewhere.environment
    assert gateway.on_refused is None


@pytest.mark.parametrize(
    ("url", "own"),
    [("http://127.0.0.1:8081", True), ("http://localhost:8081", True), ("http://gpu-box:8081", False)],
)
def test_an_engine_elsewhere_is_not_started_here(tmp_path: Path, url: str, own: bool) -> None:
    """engine_url naming another machine means: use that one."""
    assert bool(plan(tmp_path, gateway={"engine_url": url}).own_engines) is own


def test_several_models_have_an_engine_each(tmp_path: Path) -> None:
    """On ports in a row, with their share of the cores; engines elsewhere serve beside them; names must differ."""
    settings = SupervisorSettings(data_dir=tmp_path, models=[Path("bundles/docs"), tmp_path / "code"])
    gateway = GatewaySettings(engines={"big": {"urls": ["http://gpu-box:8081"]}})
    here = Plan(settings, EngineSettings(engine_port=9001), gateway, {"docs": 3, "code": 1})
    docs, code = (engine_child(here, engine) for engine in here.own_engines)
    assert (docs.name, code.name) == ("engine-docs", "engine-code")
    assert docs.environment["DEJAVEC_MODEL_BUNDLE"] == str(tmp_path / "bundles/docs")
    assert [one.environment["DEJAVEC_ENGINE_SESSIONS"] for one in (docs, code)] == ["3", "1"]
    child = gateway_child(here, None)
    assert started_by(child) == {"docs": ["http://127.0.0.1:9001"], "code": ["http://127.0.0.1:9002"]}
    assert list(here.engine_urls) == ["docs", "code", "big"]
    with pytest.raises(ConfigurationError, match="two of the folders are called 'docs'"):
        _ = Plan(SupervisorSettings(models=[Path("a/docs"), Path("b/docs")]), here.engine, gateway).own_engines


def test_the_log_of_each_engine_is_tried_before_a_start(tmp_path: Path) -> None:
    """One that cannot be written to ends the start with its name; without that, each process has its file."""
    here = Plan(
        SupervisorSettings(data_dir=tmp_path, models=[Path("docs"), Path("code")]), EngineSettings(), GatewaySettings()
    )
    (tmp_path / "logs" / "engine-code.log").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"engine-code\.log cannot be used"):
        open_data_dir(here)
    other = Plan(SupervisorSettings(data_dir=tmp_path / "other"), EngineSettings(), GatewaySettings())
    os.close(open_data_dir(other))
    logs = {file.stem for file in (tmp_path / "other" / "logs").iterdir()}
    assert logs == {"dejavec", "redis", "engine", "gateway"}


def test_engines_elsewhere_need_none_here(tmp_path: Path) -> None:
    """`engines` without `models`: nothing is started, and the gateway reads them itself."""
    here = plan(tmp_path, gateway={"engines": {"big": {"urls": ["http://gpu-box:8081"]}}})
    assert (here.own_engines, here.engine_urls) == ([], {"big": ["http://gpu-box:8081"]})
    assert STARTED not in gateway_child(here, None).environment


@pytest.mark.parametrize(
    ("cores", "costs", "shares"),
    [(8, {"small": 1.0, "large": 7.0}, {"small": 1, "large": 7}), (4, {"a": 1.0, "b": 1.0}, {"a": 2, "b": 2}),
     (2, {"a": 1.0, "b": 50.0}, {"a": 1, "b": 1}), (1, {"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1, "b": 1, "c": 1})],
)  # fmt: skip
def test_cores_are_shared_by_what_a_token_costs(cores: int, costs: dict[str, float], shares: dict[str, int]) -> None:
    """Nobody goes without."""
    assert share_cores(cores, costs) == shares


def test_a_taken_port_is_named_with_its_setting(tmp_path: Path) -> None:
    """The message has the port and what to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        busy = plan(tmp_path, engine={"engine_port": free_port()}, gateway={"gateway_port": port})
        with pytest.raises(ConfigurationError, match=rf"{port}.*DEJAVEC_GATEWAY_PORT"):
            check_ports(busy)


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """Not every refusal is a taken port: the system's reason is passed on."""
    away = plan(tmp_path, gateway={"gateway_host": "192.0.2.1", "gateway_port": free_port()})
    with pytest.raises(ConfigurationError, match="Cannot assign requested address"):
        check_ports(Plan(away.supervisor, EngineSettings(engine_port=free_port()), away.gateway))


def test_drain_limits_leave_room_before_the_kill(tmp_path: Path) -> None:
    """A process is killed only after its own drain limit has passed."""
    settings = plan(tmp_path, engine={"engine_drain_s": 7}, gateway={"drain_timeout_s": 9})
    assert only_engine(settings).stop_timeout_s > 7
    assert gateway_child(settings, None).stop_timeout_s > 9


def test_redis_command_carries_no_password(tmp_path: Path) -> None:
    """Only the path of a private configuration file is seen in the process list."""
    instance = Instance(tmp_path, ("redis-server", "redis.conf"), 7000, "secret")
    child: ChildSpec = redis_child(instance, SupervisorSettings())
    assert child.command == ("redis-server", "redis.conf")
    assert "secret" in instance.url


def test_locate_without_wheels_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform without the embedded parts the reason names the way out."""
    monkeypatch.setattr("deploy.embedded_redis.importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotAvailable, match="DEJAVEC_REDIS_URL"):
        locate()


def test_a_server_without_the_search_module_is_configured(tmp_path: Path) -> None:
    """Where only the server exists (Linux on arm64) the exact tier still gets its Redis."""
    server = tmp_path / "redis-server"
    server.touch(mode=0o755)
    configure(tmp_path / "redis", Binaries(server, None))
    assert "loadmodule" not in (tmp_path / "redis" / "redis.conf").read_text()


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@localhost:1/0", "redis://localhost:1?password=hunter2", "redis://hunter2:x@localhost:1"]
)
async def test_the_start_page_shows_no_credentials(tmp_path: Path, url: str) -> None:
    """Neither those of a Redis that does not answer, nor those of an engine elsewhere."""
    page = io.StringIO()
    here = plan(tmp_path, gateway={"engine_url": "http://me:hunter2@gpu-box:8081"})
    show(here, Found({}, await describe_redis(url)), Console(width=200, file=page))
    assert "does not answer at redis://" in page.getvalue()
    assert "http://***@gpu-box:8081" in page.getvalue()
    assert "hunter2" not in page.getvalue()


def test_start_page_has_what_to_copy(tmp_path: Path) -> None:
    """Address, documentation, metrics, a curl and a Python example, also before the engine has said who it is."""
    page = io.StringIO()
    show(plan(tmp_path), Found({}, "8.2.3 with RediSearch"), Console(width=60, file=page))
    text = page.getvalue()
    assert "  -H 'content-type: application/json' \\\n  -d '{" in text
    for piece in ("http://127.0.0.1:8080", "/docs", "/metrics", "curl -i", "OpenAI(base_url=", "8.2.3 with RediSearch"):
        assert piece in text


async def test_the_start_page_asks_engines_until_one_answers(tmp_path: Path) -> None:
    """One that is down, and one by a DNS name behind it; a model that nobody serves is not known."""
    async with StandInEngine(fingerprint="ab" * 16).running() as engine:
        by_name = engine.url.replace("http://127.0.0.1", "dns+http://localhost")
        engines = {"docs": {"urls": ["http://127.0.0.3:9", by_name]}, "code": {"urls": [NOWHERE]}}
        here = plan(tmp_path, gateway={"engines": engines})
        found = await find(here, None, "none is installed")
    info = found.engines["docs"]
    assert info is not None
    assert info.fingerprint == "ab" * 16
    assert found.engines["code"] is None
