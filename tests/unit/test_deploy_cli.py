"""The `dejavec` command: quick help, lazy imports, one message for an operator's mistake."""

import importlib.util
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy.cli import COMMANDS, main
from deploy.install import ROOT
from deploy.ports import free_port

HELP_BUDGET_S = 0.2

available = [name for name, (module, *_) in COMMANDS.items() if importlib.util.find_spec(module)]


def dejavec(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="dejavec")


def test_help_teaches() -> None:
    """The first screen names every command, how to start, and where settings come from."""
    text = dejavec("--help").output
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "dejavec up" in text
    assert "dejavec.toml" in text
    assert "DEJAVEC_" in text


def test_no_arguments_show_the_help() -> None:
    """`dejavec` alone is a question, not a mistake."""
    result = dejavec()
    assert result.exit_code == 0
    assert "Quick start" in result.output


@pytest.mark.parametrize("name", available)
def test_every_command_has_help(name: str) -> None:
    """Each subcommand can be imported and explains itself."""
    result = dejavec(name, "--help")
    assert result.exit_code == 0, result.output
    assert f"dejavec {name}" in result.output


def test_help_imports_no_subcommand() -> None:
    """`--help` answers from a table: neither settings nor servers nor models are loaded."""
    code = (
        "import sys; from deploy.cli import main; main(['--help'], standalone_mode=False);"
        "print(sorted({'numpy', 'pydantic', 'fastapi', 'rich', 'onnxruntime', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_is_quick() -> None:
    """`dejavec --help` costs less than 0.2 s of one core, Python's own start included; the best of five runs.

    Processor time, not the clock: the test machine may be busy.
    """

    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "deploy.cli", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) < HELP_BUDGET_S


def test_version() -> None:
    """`--version` names the distribution."""
    assert dejavec("--version").output.startswith("dejavec ")


def test_unknown_command_is_refused() -> None:
    """Exit status 2 and the name."""
    result = dejavec("nonsense")
    assert result.exit_code == 2
    assert "nonsense" in result.output


def config_with(folder: Path, content: str) -> subprocess.CompletedProcess[str]:
    """`dejavec config` with this configuration file."""
    file = folder / "dejavec.toml"
    file.write_text(content)
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "--config", str(file), "config"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("gateway_prot = 1", "did you mean 'gateway_port'"),
        ("gateway_port = 'x'", "gateway_port"),
        ("gateway_port =", "not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_one_message(tmp_path: Path, content: str, complaint: str) -> None:
    """An unknown name, a wrong value or broken TOML: exit status 2, the setting named, no trace."""
    done = config_with(tmp_path, content)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content",
    [
        '[api_keys."sk-SECRET"]\nnamespace = "a"\n[api_keys."sk-SECRET"]\nnamespace = "a"',
        'api_keys = {"sk-SECRET" = {namespace = "a"}, "sk-SECRET" = {namespace = "a"}}',
        'api_keys = {"sk-a" = {namespace = "a"}}\n[api_keys."sk-SECRET"]\nnamespace = "b"',
        '"sk-SECRET" = "x"',
        '["sk-SECRET"]\nnamespace = "a"',
        '[api_keys."sk-SECRET"]\nnamespce = "a"',
        '[api_keys."sk-SECRET"]\nnamespace = "A B"',
    ],
)
def test_no_mistake_in_the_file_prints_a_key(tmp_path: Path, content: str) -> None:
    """Names in api_keys are secrets, and start-up messages end up in logs."""
    done = config_with(tmp_path, content)
    assert done.returncode == 2
    assert done.stderr
    assert "SECRET" not in done.stdout + done.stderr


def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DEJAVEC_ variable that nobody reads is said, and does not stop anything."""
    monkeypatch.setenv("DEJAVEC_GATEWAY_PROT", "9000")
    result = dejavec("config")
    assert result.exit_code == 0
    assert "unknown variable DEJAVEC_GATEWAY_PROT; did you mean 'gateway_port'?" in result.output


def test_a_data_folder_that_cannot_be_made_is_named() -> None:
    """`up` stops before it starts anything."""
    result = dejavec("up", "--data-dir", "/dev/null/data")
    assert result.exit_code == 2
    assert "data_dir: /dev/null/data cannot be used" in result.output


def test_a_missing_file_is_named() -> None:
    """--config with a file that does not exist."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "--config", "/nowhere.toml", "config"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "/nowhere.toml" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DEJAVEC_TOKEN_INPUT_ENCODING", "nonsense", "token_input_encoding 'nonsense' cannot be loaded"),
        ("DEJAVEC_KEY_SECRET_FILE", "/dev/null/secret", "the key secret /dev/null/secret cannot be used"),
    ],
)
def test_what_a_worker_would_end_on_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, told: str
) -> None:
    """The gateway says it before it starts a worker, with exit status 2 and no trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(main, ["gateway", "--port", str(free_port())])
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output
