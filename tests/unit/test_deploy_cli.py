"""The `dejavec` command: quick help, lazy imports, one message for an operator's mistake."""

import importlib.util
import os
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deploy.cli import COMMANDS, EXTRAS, main
from deploy.install import ROOT
from tests.free_ports import free_port

HELP_BUDGET_S = 0.2


def dejavec(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="dejavec")


def install(extra: str) -> str:
    """The line that brings an extra where `make up` installed: a package index has no dejavec."""
    return f'.venv/bin/pip install -e ".[{extra}]"'


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


@pytest.mark.parametrize("name", COMMANDS)
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


@pytest.mark.parametrize(("name", "module"), [("model", "onnx"), ("gateway", "redis"), ("engine", "onnxruntime")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    """One line with the packages and the extra that brings them; the commands that need no extra still work."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == module else find_spec(wanted))
    for arguments in ([name], [name, "--help"]):
        result = dejavec(*arguments)
        assert result.exit_code == 2
        assert result.output == f"Error: `dejavec {name}` needs {module}: {install(COMMANDS[name].extra)}\n"
    assert install("all") in dejavec("up").output
    assert dejavec("cache", "--help").exit_code == 0
    assert dejavec("ingest", "--help").exit_code == 0


@pytest.mark.parametrize("arguments", [("cache", "simulate", "log.txt"), ("cache", "simulate", "--help")])
def test_a_subcommand_may_need_an_extra_of_its_own(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    """The group lists it all the same, and its other commands work."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else find_spec(name))
    result = dejavec(*arguments)
    assert result.exit_code == 2
    assert result.output == f"Error: `dejavec cache simulate` needs tokenizers: {install('gateway')}\n"
    assert "  simulate " in dejavec("cache", "--help").output
    assert dejavec("cache", "warm", "--help").exit_code == 0


def test_a_subcommand_elsewhere_has_its_own_help() -> None:
    """The real one's, under its full name."""
    output = dejavec("cache", "simulate", "--help").output
    assert output.startswith("Usage: dejavec cache simulate [OPTIONS] LOG...")
    assert "--engine-price-ms" in output


def test_extras_are_those_of_the_package() -> None:
    """What the command looks for is what pyproject.toml lists, but for packages that not every system has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, modules in EXTRAS.items():
        if extra == "all":
            continue
        listed = [each for each in project["optional-dependencies"][extra] if ";" not in each]
        names = [re.match(r"[\w-]+", each) for each in listed]
        assert sorted(modules) == [name[0].replace("-", "_") for name in names if name]
    assert project["optional-dependencies"]["all"] == ["dejavec[gateway,engine,build,client]"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.app", ["onnx", "onnxruntime", "safetensors", "filelock"]),
        ("gateway.simulate.cli", ["onnx", "onnxruntime", "safetensors", "filelock", "fastapi", "uvicorn"]),
        ("engine.server", ["fastapi", "redis", "onnx", "safetensors", "filelock"]),
        ("engine.build.cli", ["fastapi", "redis", "starlette", "uvicorn", "prometheus_client"]),
        ("gateway.client.cli", [*EXTRAS["all"], "starlette"]),
        ("gateway.client.cache_cli", [*EXTRAS["all"], "starlette"]),
        ("bulk.cli", [*EXTRAS["all"], "starlette", "ray", "fsspec", "pyarrow"]),
        ("loadtest.cli", [*EXTRAS["all"], "starlette"]),
        ("deploy.config", [*EXTRAS["all"], "starlette"]),
    ],
)
def test_a_role_imports_its_own_extra_alone(module: str, absent: list[str]) -> None:
    """In a process where the other roles' packages cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {module}"
    code += "; from deploy.config import settings_classes; settings_classes()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    assert "the settings file /nowhere.toml, named by --config or DEJAVEC_CONFIG, does not exist" in done.stderr


@pytest.mark.parametrize("name", ["folder", "dangling", "pipe", "x" * 300])
def test_what_is_no_settings_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """Nothing that stands where the file should be counts as no file: the defaults would be in force unnoticed."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("DEJAVEC_CONFIG", str(tmp_path / name))
    result = dejavec("config")
    assert result.exit_code == 2
    assert result.output.startswith(f"Error: {tmp_path / name} ")
    told = {
        "folder": "is a folder, not a settings file: remove it",
        "dangling": "is a link to a file that does not exist",
        "pipe": "is not a regular file",
    }
    assert told.get(name, "cannot be read: File name too long") in result.output


def test_a_folder_in_the_files_default_place_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What Docker makes where the file to mount is missing; `doctor` names it among its findings."""
    (tmp_path / "dejavec.toml").mkdir()
    monkeypatch.chdir(tmp_path)
    result = dejavec("config")
    assert (result.exit_code, "dejavec.toml is a folder" in result.output) == (2, True)
    output = dejavec("doctor").output
    assert ("Traceback" in output, "dejavec.toml is a folder" in output) == (False, True)


def test_a_variable_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own name and without its value, which may be a secret."""
    monkeypatch.setenv("DEJAVEC_API_KEYS", '{"sk-SECRET')
    result = dejavec("config")
    assert result.exit_code == 2
    told = "Error: DEJAVEC_API_KEYS is not valid JSON from character 2 on (a list or table is JSON in a variable)\n"
    assert result.output.endswith(told)
    assert "SECRET" not in result.output


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DEJAVEC_TOKEN_INPUT_ENCODING", "nonsense", "token_input_encoding 'nonsense' is not one of"),
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


def test_a_file_that_every_user_may_change_is_refused(tmp_path: Path) -> None:
    """It decides who gets in; behind a link the file itself is named."""
    (tmp_path / "shared.toml").write_text("gateway_port = 9000\n")
    (tmp_path / "shared.toml").chmod(0o666)
    (tmp_path / "dejavec.toml").symlink_to(tmp_path / "shared.toml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "deploy.cli", "config"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"every user can change {tmp_path}/shared.toml: `chmod o-w` it" in done.stderr
