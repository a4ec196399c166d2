"""Where a model runs and what that makes of its name."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from deploy.cli import main as dejavec
from engine import server
from engine.cli import engine
from engine.model.session import _double_cost_tokens, choose_device
from engine.settings import Device, EngineSettings

BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]
CPU_ONLY = ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("wanted", "precision", "providers", "chosen"),
    [
        ("auto", "int8", CPU_ONLY, "cpu"),
        ("auto", "fp16", CPU_ONLY, "cpu"),
        ("auto", "fp16", BOTH, "cuda"),
        ("auto", "fp32", BOTH, "cuda"),
        ("auto", "int8", BOTH, "cpu"),
        ("cuda", "fp16", BOTH, "cuda"),
        ("cuda", "fp16", CPU_ONLY, "cpu"),
        ("cuda", "int8", BOTH, "cpu"),
        ("cpu", "fp16", BOTH, "cpu"),
    ],
)
def test_cuda_needs_the_provider_and_a_graph_that_suits_it(
    wanted: Device, precision: str, providers: list[str], chosen: str
) -> None:
    """Anything else runs on the CPU rather than not at all."""
    assert choose_device(wanted, precision, providers) == chosen  # type: ignore[arg-type]


def test_a_refused_wish_for_cuda_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Who asks for CUDA and does not get it finds the reason in the log."""
    choose_device("cuda", "fp16", CPU_ONLY)
    assert "no CUDA provider" in caplog.text


def test_the_command_line_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become settings; what is not given comes from the environment and from the file that is named."""
    seen: list[EngineSettings] = []
    monkeypatch.setattr(server, "run", seen.append)
    monkeypatch.setenv("DEJAVEC_CONFIG", "")
    monkeypatch.setenv("DEJAVEC_ENGINE_PORT", "9001")
    monkeypatch.setenv("DEJAVEC_MAX_BATCH_SIZE", "7")
    config = tmp_path / "settings.toml"
    config.write_text("engine_drain_s = 3.5\nmax_batch_size = 8\n")
    options = ["--port", "9002", "--bundle", str(tmp_path), "--config", str(config)]
    result = CliRunner().invoke(engine, options, catch_exceptions=False)
    assert result.exit_code == 0
    (settings,) = seen
    found = (settings.engine_port, settings.max_batch_size, settings.engine_drain_s, settings.model_bundle)
    assert found == (9002, 7, 3.5, tmp_path)


def test_a_bad_setting_ends_the_command_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stack trace, but the setting and what is wrong with it; exit status 2, as for every wrong setting."""
    monkeypatch.setenv("DEJAVEC_MAX_BATCH_SIZE", "none")
    result = CliRunner().invoke(dejavec, ["engine"])
    assert result.exit_code == 2
    assert "max_batch_size" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("longest_run_s", "expected"), [(72.0, 1000.0), (8.0, math.inf), (5.0, math.inf)])
def test_what_attention_costs_is_measured_by_the_longest_text(longest_run_s: float, expected: float) -> None:
    """8,000 tokens at 1,000 a second would take 8 s; what they take beside is attention's."""
    model = SimpleNamespace(bundle=SimpleNamespace(max_tokens=8000), longest_run_s=longest_run_s)
    assert _double_cost_tokens(model, 0.0, 0.001) == pytest.approx(expected)  # type: ignore[arg-type]
