"""`dejavec doctor`: each check by itself, and that none hides another."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.redis_care import judge
from cache.redis_report import ServerReport
from common.findings import Finding
from common.open_files import RESERVE
from deploy.doctor import machine_checks, process_checks
from deploy.doctor.machine_checks import check_cpu, check_disk, check_memory, check_open_files, check_secrets
from deploy.doctor.model_checks import check_bundles
from deploy.doctor.process_checks import (
    check_engines,
    check_gateway,
    check_ports,
    check_redis,
    embedded_url,
    gateway_fingerprints,
)
from deploy.doctor.running import Section, run
from deploy.doctor.settings_checks import check_conflicts, check_settings
from deploy.doctor.setup import SetUp, find_set_up
from gateway.cli import ENGINE_LOOKS, REDIS_CONNECTIONS
from tests.free_ports import free_port
from tests.integration.engine_under_test import write_tiny_bundle

NOTHING = SetUp(None, None, None, None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without settings, where no part of dejavec runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", str(free_port()))
    monkeypatch.setenv("DEJAVEC_ENGINE_PORT", str(free_port()))
    return tmp_path


def by_check(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def close_first(listener: socket.socket) -> None:
    """Accept one connection and answer nothing."""
    listener.accept()[0].close()


def test_no_check_hides_another() -> None:
    """One that hangs, one that fails and one that lacks a package: the others' findings stand, in their order."""
    release = threading.Event()

    def hangs(_: SetUp) -> Iterator[Finding]:
        yield Finding("first part", "ok", "seen before it hung")
        release.wait(60)

    def fails(_: SetUp) -> Iterator[Finding]:
        raise RuntimeError("with a-secret-value in its text")

    def lacks(_: SetUp) -> Iterator[Finding]:
        raise ModuleNotFoundError(name="onnxruntime")

    def works(_: SetUp) -> Iterator[Finding]:
        yield Finding("works", "ok", "fine")

    def reads(set_up: SetUp) -> Iterator[Finding]:
        yield Finding("reads", "ok", str(set_up.plan))

    checks = {"hangs": hangs, "fails": fails, "lacks": lacks, "works": works, "reads": reads}
    begun_s = time.monotonic()
    found = run([Section(name, check) for name, check in checks.items()], NOTHING, limit_s=3.0)
    release.set()
    assert time.monotonic() - begun_s < 30
    assert list(found) == list(checks)
    assert [finding.severity for finding in found["hangs"]] == ["ok", "unseen"]
    assert "RuntimeError" in found["fails"][0].what
    assert "a-secret-value" not in found["fails"][0].what
    assert "onnxruntime" in found["lacks"][0].what
    assert found["works"] == [Finding("works", "ok", "fine")]
    assert found["reads"][0].severity == "unseen"


def test_the_defaults_are_well(place: Path) -> None:
    """A fresh folder has nothing to mend in its settings."""
    set_up = find_set_up()
    assert {finding.severity for finding in check_settings(set_up)} == {"ok"}
    assert {finding.severity for finding in check_conflicts(set_up)} <= {"ok", "note"}


def test_settings_that_cannot_be_read_are_named_and_leave_the_rest(place: Path) -> None:
    """A value out of bounds for the gateway, an unknown name: both are faults, and the engine is still looked at."""
    (place / "dejavec.toml").write_text('gateway_workers = 0\nmax_batch_sise = 3\nadmin_token = "short"\n')
    set_up = find_set_up()
    found = list(check_settings(set_up))
    assert {finding.severity for finding in found} == {"fault"}
    said = "\n".join(finding.what for finding in found)
    assert "gateway_workers" in said
    assert "max_batch_size" in said
    assert set_up.gateway is None
    assert set_up.engine is not None
    assert run([Section("memory", check_memory)], set_up)["memory"][0].severity == "unseen"


@pytest.mark.parametrize(
    ("settings", "check", "severity"),
    [
        ('gateway_host = "0.0.0.0"', "gateway_host, api_keys", "warning"),
        ('cors_origins = ["*"]', "cors_origins, api_keys", "warning"),
        ("cache_ttl_seconds = 30", "local_cache_ttl_seconds, cache_ttl_seconds", "warning"),
        ("redis_timeout_ms = 5000\nrequest_timeout_s = 2", "redis_timeout_ms, request_timeout_s", "warning"),
        ("semantic_timeout_ms = 5000\nrequest_timeout_s = 2", "semantic_timeout_ms, request_timeout_s", "warning"),
        ('semantic_mode = "on"\nsimilarity_threshold = 0.9', "similarity_threshold, semantic_fidelity", "note"),
        ("batching_timeout_ms = 9.0", "batching_policy, batching_timeout_ms", "note"),
        ("engine_sessions = 250", "engine_sessions, engine_threads", "warning"),
        ("allow_unverified_bundle = true", "allow_unverified_bundle", "warning"),
        ("watch_failures = 2", "watch_interval_s, watch_failures, engine_hang_s", "note"),
        ("engine_deadline_s = 1.0", "engine_deadline_s, request_timeout_s", "note"),
    ],
)
def test_settings_that_conflict_are_named(place: Path, settings: str, check: str, severity: str) -> None:
    """Each is valid by itself; the finding has the names of those that do not go together."""
    (place / "dejavec.toml").write_text(settings + "\n")
    found = by_check(check_conflicts(find_set_up()))
    assert found[check].severity == severity
    assert found[check].remedy or severity == "note"


@pytest.mark.parametrize(
    ("cpuinfo", "words", "severity"),
    [
        ("flags : sse avx2 avx512f avx512_vnni\n", "AVX-512 with VNNI", "ok"),
        ("flags : sse avx2 avx_vnni\n", "AVX2 with VNNI", "ok"),
        ("flags : sse avx2 avx512f\n", "AVX-512 without VNNI", "ok"),
        ("flags : sse avx2\n", "AVX2 without VNNI", "ok"),
        ("flags : sse sse4_2\n", "without AVX2", "warning"),
        ("Features : fp asimd asimddp\n", "arm64 with dot product", "ok"),
    ],
)
def test_the_kind_of_cpu_is_told(tmp_path: Path, cpuinfo: str, words: str, severity: str) -> None:
    """By its features, with what follows for INT8."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    found = by_check(check_cpu(NOTHING, tmp_path / "cpuinfo"))
    assert words in found["cpu"].what
    assert found["cpu"].severity == severity


def test_a_cpu_that_is_not_told_is_no_fault(tmp_path: Path) -> None:
    """Other systems have no such file."""
    assert by_check(check_cpu(NOTHING, tmp_path / "none"))["cpu"].severity == "unseen"


def test_bounds_beyond_the_memory_are_a_warning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are added up by what they are for."""
    assert by_check(check_memory(find_set_up()))["memory"].severity == "ok"
    monkeypatch.setattr(machine_checks, "memory_bytes", lambda: 2**29)
    found = by_check(check_memory(find_set_up()))["memory"]
    assert found.severity == "warning"
    assert "embedded Redis 1.0 GiB" in found.what


def test_too_few_open_files_are_a_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process would not start; the remedy has the number that the gateway itself would name."""
    monkeypatch.setenv("DEJAVEC_MAX_CONNECTIONS", str(2**30))
    found = by_check(check_open_files(find_set_up()))["open files"]
    assert found.severity == "fault"
    assert str(2**30 + 1024 + ENGINE_LOOKS + REDIS_CONNECTIONS + RESERVE) in found.remedy


def test_a_data_folder_that_is_a_file_is_a_fault(place: Path) -> None:
    """`dejavec up` would not start."""
    (place / "taken").write_text("")
    assert by_check(check_disk(find_set_up(data_dir=place / "fine")))["data folder"].severity == "ok"
    assert by_check(check_disk(find_set_up(data_dir=place / "taken")))["data folder"].severity == "fault"


def test_files_of_secrets_that_others_read(place: Path) -> None:
    """A key secret for all to read is a warning, one for all to change a fault; the settings file where it has some."""
    secret = place / ".dejavec" / "key-secret"
    secret.parent.mkdir()
    secret.write_text("5e" * 32)
    secret.chmod(0o600)
    assert by_check(check_secrets(find_set_up()))["files of secrets"].severity == "ok"
    secret.chmod(0o644)
    found = by_check(check_secrets(find_set_up()))["key secret"]
    assert (found.severity, f"chmod 600 {secret}" in found.remedy) == ("warning", True)
    secret.chmod(0o666)
    assert by_check(check_secrets(find_set_up()))["key secret"].severity == "fault"
    secret.chmod(0o600)
    settings = place / "dejavec.toml"
    settings.write_text("gateway_workers = 2\n")
    settings.chmod(0o644)
    assert "files of secrets" in by_check(check_secrets(find_set_up()))
    settings.write_text('admin_token = "operator-of-these-tests"\n')
    assert by_check(check_secrets(find_set_up()))["settings file"].severity == "warning"


def test_ports_are_free_taken_or_wanted_twice(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger on the port is a fault with the setting that changes it."""
    assert {finding.severity for finding in check_ports(find_set_up())} == {"ok"}
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setenv("DEJAVEC_GATEWAY_PORT", str(port))
        stranger.settimeout(10)
        threading.Thread(target=close_first, args=(stranger,), daemon=True).start()
        found = by_check(check_ports(find_set_up()))["gateway port"]
        assert found.severity == "fault"
        assert "DEJAVEC_GATEWAY_PORT" in found.remedy
        monkeypatch.setenv("DEJAVEC_ENGINE_PORT", str(port))
        assert by_check(check_ports(find_set_up()))["ports"].severity == "fault"


def test_what_does_not_run_yet_is_a_note(place: Path) -> None:
    """Before a start, nothing answers, and nothing is wrong with that."""
    set_up = find_set_up()
    assert {finding.severity for finding in [*check_gateway(set_up), *check_engines(set_up)]} == {"note"}
    assert embedded_url(place / ".dejavec") is None


def test_fingerprints_of_one_model_and_of_several() -> None:
    """`/info` describes one model, or lists several by name or in a row."""
    one, other = {"fingerprint": "aa"}, {"fingerprint": "bb"}
    assert gateway_fingerprints(one) == {"aa"}
    assert gateway_fingerprints({**one, "models": {"x": one, "y": other}}) == {"aa", "bb"}
    assert gateway_fingerprints({"models": [one, other]}) == {"aa", "bb"}
    assert gateway_fingerprints({"fingerprint": None}) == set()


def test_a_bundle_is_whole_or_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None yet: a note; a good one with its kernel class and quality; a changed file is a fault with its name."""
    assert by_check(check_bundles(find_set_up()))["bundle"].severity == "note"
    folder = write_tiny_bundle(place / "tiny")
    monkeypatch.setenv("DEJAVEC_MODEL_BUNDLE", str(folder))
    found = by_check(check_bundles(find_set_up()))
    assert found["bundle"].severity == "ok"
    assert found["kernel class"].severity == "ok"
    assert "quality" in found
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    found = by_check(check_bundles(find_set_up()))
    assert found["bundle"].severity == "fault"
    assert "model.onnx" in found["bundle"].what


def test_nobody_is_told_to_update_the_embedded_redis(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with a package: the remedy is another one. A Redis that the settings name can be updated."""
    facts = ServerReport(info={"redis_version": "8.2.3"}, modules={"search": (8, 2, 3)}, latency_s=0.0, clock_s=0.0)

    async def old(*_: object) -> list[Finding]:
        return judge(facts, needs_search=True, timeout_s=0.1)

    def remedies() -> list[str]:
        return [one.remedy for one in check_redis(find_set_up()) if one.check == "known faults"]

    monkeypatch.setattr("gateway.redis_watch.findings", old)
    monkeypatch.setattr(process_checks, "embedded_url", lambda _: "redis://:secret@127.0.0.1:1/0")
    assert len(remedies()) == 2
    assert all("set redis_url to your own" in remedy and "update Redis" not in remedy for remedy in remedies())
    monkeypatch.setenv("DEJAVEC_REDIS_URL", "redis://127.0.0.1:1/0")
    assert all(remedy.startswith("update Redis to ") for remedy in remedies())
