"""What the gateway refuses to start with, and that no refusal prints a secret."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bulk.cli import ingest
from cache.keys import SecretError, load_or_make_secret
from deploy.doctor.setup import find_set_up
from engine.configuration import ConfigurationError, load
from engine.exit_status import CANNOT_START
from gateway.client.cache_cli import cache
from gateway.client.client import AsyncClient
from gateway.client.retry import RetryPolicy
from gateway.client.settings import ClientSettings
from gateway.client.usage_cli import usage
from gateway.client.warm import warm
from gateway.settings import GatewaySettings
from tests.free_ports import free_port

ROOT = Path(__file__).parents[2]
UNSENDABLE = [
    "",
    "пароль-оператора-этих",
    "hunter2-of-these-tests ",
    " hunter2-of-these-tests",
    "hunter2\nof-these-tests-x",
]


@pytest.mark.parametrize("token", [*UNSENDABLE, "hunter2", "x" * 15])
def test_a_token_that_cannot_work_or_is_short_is_refused(token: str) -> None:
    """The setting is named, the value is not."""
    with pytest.raises(ConfigurationError, match="admin_token: it ") as caught:
        load(GatewaySettings, admin_token=token)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", [*UNSENDABLE, "hunter2", "x" * 15])
def test_a_key_that_cannot_work_or_is_short_is_refused(key: str) -> None:
    """Its namespace says which one it is."""
    with pytest.raises(ConfigurationError, match="api_keys: a key of namespace 'team-a': it ") as caught:
        load(GatewaySettings, api_keys={key: {"namespace": "team-a"}})
    assert "hunter2" not in str(caught.value)


def test_what_a_header_can_carry_is_taken() -> None:
    """All visible ASCII, from sixteen characters on; the admin token is not a key as well."""
    token = "".join(map(chr, range(33, 127)))
    keys = {"x" * 16: {"namespace": "a"}}
    assert load(GatewaySettings, admin_token=token, api_keys=keys).admin_token is not None
    with pytest.raises(ConfigurationError, match="admin_token must not be one of api_keys"):
        load(GatewaySettings, admin_token="x" * 16, api_keys=keys)


@pytest.mark.parametrize("field", ["client_api_key", "client_admin_token"])
@pytest.mark.parametrize("value", UNSENDABLE)
def test_a_client_does_not_try_what_cannot_be_sent(field: str, value: str) -> None:
    """A line break would end the header; the gateway, which may be another version, judges the length."""
    with pytest.raises(ConfigurationError, match=field) as caught:
        load(ClientSettings, **{field: value})
    assert "hunter2" not in str(caught.value)
    load(ClientSettings, **{field: "short"})


@pytest.mark.parametrize(
    ("field", "url"),
    [
        ("engine_url", "http://me:hun ter2@gpu"),
        ("engine_url", "http://me:hunter2@gpu:99999"),
        ("engine_url", "http://me:hunter2@gpu/?key=hunter2"),
        ("engine_url", "http://"),
        ("engine_url", "http://me:hun/ter2@gpu"),
        ("redis_url", "redis://:hunter2@cache:port"),
        ("redis_url", "redis://:hun\nter2@cache"),
        ("redis_url", "redis://:hun/ter2@cache"),
        ("redis_url", "redis://:hunter2@[cache"),
        ("redis_url", "redis+cluster://:hunter2@one,two:port"),
        ("redis_url", "redis+cluster://:hun/ter2@one,two"),
        ("redis_url", "redis+sentinel://:hun ter2@one,two/master"),
        ("redis_url", "redis+sentinel://:hunter2@one"),
        ("semantic_redis_url", "redis://:hunter2@cache:port"),
    ],
)
def test_a_url_that_could_be_read_in_two_ways_is_refused(field: str, url: str) -> None:
    """The password in it is not printed."""
    with pytest.raises(ConfigurationError, match=field) as caught:
        load(GatewaySettings, **{field: url})
    assert "ter2" not in str(caught.value)


def gateway(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "DEJAVEC_GATEWAY_PORT": str(free_port()),
        **variables,
    }
    command = [sys.executable, "-m", "deploy.cli", "gateway"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=500
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"DEJAVEC_ADMIN_TOKEN": "hunter2"},
        {"DEJAVEC_API_KEYS": json.dumps({"hunter2": {"namespace": "a"}})},
        {"DEJAVEC_REDIS_URL": "redis://:hunter2@cache:1?socket_timeout=soon"},
        {"DEJAVEC_REDIS_URL": "redis://:hunter2@cache:1?no_such_option=1"},
        {"DEJAVEC_SEMANTIC_REDIS_URL": "redis+cluster://:hunter2@cache:1?no_such_option=1"},
        {"DEJAVEC_REDIS_CA_FILE": "no-such-file", "DEJAVEC_REDIS_URL": "rediss://:hunter2@cache:1"},
    ],
)
def test_the_command_ends_with_one_message(tmp_path: Path, variables: dict[str, str]) -> None:
    """CANNOT_START, the setting, no trace, and not the value."""
    done = gateway(tmp_path, **variables)
    assert done.returncode == CANNOT_START
    assert next(iter(variables)).removeprefix("DEJAVEC_").lower() in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_key_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """Behind a link too; the message has the remedy and not the secret. One made here is private."""
    target, link = tmp_path / "shared", tmp_path / "key-secret"
    target.write_text("ab" * 32)
    target.chmod(0o666)
    link.symlink_to(target)
    with pytest.raises(SecretError, match=rf"{link} cannot be used: its mode 0666.*chmod 600 {target}"):
        load_or_make_secret(link)
    done = gateway(tmp_path, DEJAVEC_KEY_SECRET_FILE=str(link))
    assert done.returncode == CANNOT_START
    assert "chmod 600" in done.stderr
    assert "abab" not in done.stderr
    target.chmod(0o600)
    assert load_or_make_secret(link) == bytes.fromhex("ab" * 32)
    assert len(load_or_make_secret(tmp_path / "made")) == 32


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8180"),
        ("0.0.0.0", "http://127.0.0.1:8180"),
        ("::", "http://[::1]:8180"),
        ("gateway.lan", "http://gateway.lan:8180"),
    ],
)
def test_client_commands_look_where_this_machines_gateway_listens(
    host: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at the same place as `status` and `doctor`, by the one settings file; client_url comes before it."""
    (tmp_path / "mine.toml").write_text(f'gateway_host = "{host}"\ngateway_port = 8180\n')
    monkeypatch.setenv("DEJAVEC_CONFIG", str(tmp_path / "mine.toml"))
    assert load(ClientSettings).gateway_url == expected == find_set_up().gateway_url
    monkeypatch.setenv("DEJAVEC_CLIENT_URL", "http://there:1")
    assert load(ClientSettings).gateway_url == "http://there:1" == find_set_up().gateway_url


def test_a_port_that_is_none_is_harmless_where_a_url_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes gives pods such a variable; without a URL the fault is named."""
    monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", "tcp://10.0.0.1:8080")
    assert load(ClientSettings, client_url="http://there:1").gateway_url == "http://there:1"
    with pytest.raises(ConfigurationError, match="gateway_port"):
        _ = load(ClientSettings).gateway_url


def test_a_client_command_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens: each names the address it tried."""
    port = free_port()
    monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", str(port))
    (tmp_path / "t.txt").write_text("a\n")
    texts = str(tmp_path / "t.txt")
    for command, words in [
        (usage, []),
        (cache, ["stats"]),
        (warm, [texts]),
        (ingest, [texts, "--out", str(tmp_path / "v.npy"), "--patience", "0.1"]),
    ]:
        monkeypatch.setattr("gateway.client.warm.AsyncClient", impatient)
        monkeypatch.setattr("gateway.client.ingest.AsyncClient", impatient)
        result = CliRunner().invoke(command, words)
        assert result.exit_code, command
        assert f"127.0.0.1:{port}" in result.output, command


def impatient(url: str, **options: Any) -> AsyncClient:
    return AsyncClient(url, **{**options, "retry": RetryPolicy(attempts=1)})
