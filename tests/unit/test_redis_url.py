"""What a Redis URL says."""

import re
import ssl
from pathlib import Path

import pytest

from cache.redis_report import client_of
from cache.redis_url import TlsFiles, Topology, read_redis_url
from gateway.settings import GatewaySettings
from tests.tls_front import make_certificates


def test_a_cluster_has_several_addresses_and_one_login() -> None:
    """Percent signs in a password are those of any URL; a port left out is Redis'."""
    found = read_redis_url("redis+cluster://me:p%40ss@one:7000,two,[::1]:7002/0?client_name=x")
    assert found.topology is Topology.CLUSTER
    assert found.addresses == (("one", 7000), ("two", 6379), ("::1", 7002))
    assert found.options == {"username": "me", "password": "p@ss", "client_name": "x"}
    assert not found.has_tls


def test_sentinels_have_a_login_of_their_own() -> None:
    """The user before the addresses is the servers'; a database stands behind the master's name."""
    found = read_redis_url("rediss+sentinel://me:pass@one,two:7001/my%20master/3?sentinel_password=other")
    assert found.topology is Topology.SENTINEL
    assert found.addresses == (("one", 26379), ("two", 7001))
    assert found.master == "my master"
    assert (found.options["username"], found.options["password"], found.options["db"]) == ("me", "pass", 3)
    assert found.sentinel_options is not None
    assert found.sentinel_options["password"] == "other"
    assert {"username", "db"}.isdisjoint(found.sentinel_options)
    assert found.has_tls


def test_files_for_tls_go_where_there_is_tls() -> None:
    """To servers and Sentinels; not to a URL without it."""
    files = TlsFiles(ca=Path("/ca.pem"), certificate=Path("/own.pem"), key=Path("/own.key"))
    found = read_redis_url("rediss+sentinel://one/master").with_tls(files)
    assert found.sentinel_options is not None
    for options in (found.options, found.sentinel_options):
        assert options["ssl_ca_certs"] == "/ca.pem"
        assert (options["ssl_certfile"], options["ssl_keyfile"]) == ("/own.pem", "/own.key")
    for plain in ("redis://one", "unix:///socket", "redis+cluster://one"):
        assert "ssl_ca_certs" not in read_redis_url(plain).with_tls(files).options


def test_our_authorities_are_trusted_beside_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As redis-py adds them, and as the setting says."""
    system, ours = make_certificates(tmp_path / "system").ca, make_certificates(tmp_path / "ours").ca
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    pool = client_of("rediss://one", TlsFiles(ca=ours)).connection_pool
    trusted = pool.make_connection().ssl_context.get().get_ca_certs(binary_form=True)
    assert {ssl.PEM_cert_to_DER_cert(certificate(path)) for path in (system, ours)} <= set(trusted)
    assert "beside the system's" in str(GatewaySettings.model_fields["redis_ca_file"].description)


def certificate(path: Path) -> str:
    found = re.search("-----BEGIN CERT.*END CERTIFICATE-----", path.read_text(), re.DOTALL)
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://one", "starts with redis://"),
        ("redis+tls://one", "starts with redis://"),
        ("redis+cluster://one/3", "database 0"),
        ("redis+cluster://", "host:port"),
        ("redis+cluster://one:7000,,two", "host:port"),
        ("redis+cluster://one:hunter2", "port is a number"),
        ("redis+sentinel://:hunter2@one:26379", "name the master"),
        ("redis+sentinel://one/master/hunter2", "number of a database"),
        ("redis+cluster://" + ",".join(["one"] * 65), "more than 64"),
    ],
)
def test_what_cannot_be_read_says_why_without_the_url(url: str, says: str) -> None:
    """The message does not hold what may be a password."""
    with pytest.raises(ValueError, match=says) as refused:
        read_redis_url(url)
    assert "hunter2" not in str(refused.value)


def test_a_file_for_tls_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """By its setting."""
    broken = tmp_path / "ca.pem"
    broken.write_text("nothing")
    for files, name in (
        (TlsFiles(ca=tmp_path / "missing"), "redis_ca_file"),
        (TlsFiles(ca=broken), "redis_ca_file"),
        (TlsFiles(certificate=broken), "redis_cert_file"),
    ):
        with pytest.raises(ValueError, match=name):
            files.check()
