"""Files that commands write at their end are tried before they begin."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from common.output_file import OutputFile, refusal
from gateway.simulate.cli import simulate
from loadtest.bench.aims import aims
from loadtest.bench.norepeat import norepeat
from loadtest.bench.replays.cli import replays
from loadtest.cli import loadtest
from loadtest.cost.cli import cost
from loadtest.study.cli import study

COMMANDS: list[tuple[click.Command, tuple[str, ...], str]] = [
    *((loadtest, (), option) for option in ("--json", "--html", "--write-workload")),
    *((study, (), option) for option in ("--json", "--html", "--markdown")),
    *((cost, (), option) for option in ("--json", "--html")),
    *((replays, (), option) for option in ("--json", "--picture", "--markdown")),
    (aims, (), "--json"),
    (norepeat, (), "--json"),
    (simulate, (__file__,), "--json"),
]


@pytest.mark.parametrize(("command", "words", "option"), COMMANDS)
def test_commands_refuse_before_they_work(
    command: click.Command, words: tuple[str, ...], option: str, tmp_path: Path
) -> None:
    """One message that names the option and the folder; nothing was measured by then."""
    done = CliRunner().invoke(command, [*words, option, str(tmp_path / "nodir" / "out")], env={"COLUMNS": "400"})
    assert done.exit_code == 2, done.output
    assert option in done.output
    assert f"there is no folder {tmp_path / 'nodir'}" in done.output


def test_trying_a_file_leaves_nothing(tmp_path: Path) -> None:
    """Neither a new file nor a changed one, and where a link leads nothing is made either."""
    (tmp_path / "there").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new", "there", "link"):
        assert OutputFile().convert(str(tmp_path / name), None, None) == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_why_a_file_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is a file, a name that no file can have, a folder, a file system that takes no files."""
    (tmp_path / "file").touch()
    assert "there is no folder" in str(refusal(tmp_path / "file" / "out"))
    assert "too long" in str(refusal(tmp_path / ("x" * 300)))
    assert refusal(Path("/proc/out")) is not None
    with pytest.raises(click.BadParameter, match="is a directory"):
        OutputFile().convert(str(tmp_path), None, None)
