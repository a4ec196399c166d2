"""`dejavec ingest`: what it says of what goes wrong, and that what it advises works."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bulk.cli import ingest
from gateway.client.warm import warm
from tests.background import in_background
from tests.integration.standin_gateway import StandIn, status

KEY_SETTING = "client_api_key (DEJAVEC_CLIENT_API_KEY)"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with in_background(StandIn()) as gateway:
        monkeypatch.setenv("DEJAVEC_CLIENT_URL", gateway.url)
        yield gateway


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(ingest, [str(folder / "texts.txt"), "--out", str(folder / "t.npy"), *words])


def test_plain_texts_are_told_of_their_format_and_the_second_run_works(gateway: StandIn, tmp_path: Path) -> None:
    """Nothing was usable as JSON Lines; with --format text all is, without --start-over."""
    (tmp_path / "texts.txt").write_text("one\ntwo\n\nthree\n")
    first = run(tmp_path)
    assert first.exit_code == 6
    assert "3 not JSON" in first.output
    assert "texts.txt was read as JSON Lines. If it has one text a line, add --format text." in first.output
    second = run(tmp_path, "--format", "text")
    assert (second.exit_code, "--format" in second.output) == (0, False), second.output
    assert len(np.load(tmp_path / "t.npy")) == 3


def test_a_mended_input_needs_no_starting_over(gateway: StandIn, tmp_path: Path) -> None:
    """Of the lines that were read before nothing was kept."""
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    assert run(tmp_path).exit_code == 6
    (tmp_path / "texts.txt").write_text('"one"\n"two"\n')
    assert run(tmp_path).exit_code == 0
    assert len(np.load(tmp_path / "t.npy")) == 2


def test_some_lines_that_are_not_json_are_no_wrong_format(gateway: StandIn, tmp_path: Path) -> None:
    """The hint is for files of which most is not."""
    (tmp_path / "texts.txt").write_text('"one"\n"two"\nthree\n')
    assert "--format" not in run(tmp_path).output


def test_what_differs_is_said_in_plain_words(gateway: StandIn, tmp_path: Path) -> None:
    """No name of a class, no None."""
    (tmp_path / "texts.txt").write_text('"one"\n')
    assert run(tmp_path).exit_code == 0
    other = run(tmp_path, "--format", "text")
    assert other.exit_code == 3
    assert (
        "Error: format is text now and was jsonl when this began.\nUse another --out, or --start-over" in other.output
    )
    other = run(tmp_path, "--cache-control", "no-store")
    assert "cache_control is no-store now and was not given when this began" in other.output


@pytest.mark.parametrize("words", [[], ["--start-over"]])
def test_files_of_another_output_are_not_to_be_started_over(gateway: StandIn, tmp_path: Path, words: list[str]) -> None:
    """The one advice is another name; vectors and ids of the first stay together."""
    (tmp_path / "texts.txt").write_text('"one"\n')
    assert run(tmp_path).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "other.jsonl").write_text('"two"\n"three"\n')
    result = CliRunner().invoke(ingest, [str(tmp_path / "other.jsonl"), "--out", str(tmp_path / "t.parquet"), *words])
    assert result.exit_code == 3
    assert "belong to" in result.output
    assert result.output.endswith("give --out another name than t.\n")
    (tmp_path / "other.jsonl").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_run_is_told_to_wait(gateway: StandIn, tmp_path: Path) -> None:
    """To start over would be refused as well, so it is not advised."""
    (tmp_path / "texts.txt").write_text('"one"\n')
    with (tmp_path / "t.npy.partial").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for words in ([], ["--start-over"]):
            result = run(tmp_path, *words)
            assert result.exit_code == 3
            assert result.output.endswith("t.npy.partial: wait until it is done.\n")


@pytest.mark.parametrize(
    ("key", "said"),
    [("", f"no key was sent: set {KEY_SETTING}"), ("of-these-tests", f"the key sent is the setting {KEY_SETTING}")],
)
def test_a_key_that_is_missing_or_refused_is_named_by_its_setting(
    gateway: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    """By every command that embeds texts, and never by its value."""
    if key:
        monkeypatch.setenv("DEJAVEC_CLIENT_API_KEY", key)
    (tmp_path / "texts.txt").write_text('"one"\n')
    gateway.misdeeds.extend([status(401), status(401)])
    refused = run(tmp_path)
    assert refused.exit_code == 5
    warmed = CliRunner().invoke(warm, [str(tmp_path / "texts.txt")])
    assert warmed.exit_code == 1
    for output in (refused.output, warmed.output):
        assert said in output
        assert "of-these-tests" not in output
    assert KEY_SETTING in CliRunner().invoke(ingest, ["--help"]).output


def test_a_folder_that_cannot_be_written_ends_it_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line, before a gateway is asked: none is there."""
    (tmp_path / "texts.txt").write_text('"one"\n')
    monkeypatch.setenv("DEJAVEC_CLIENT_URL", "http://127.0.0.1:1")
    out = tmp_path / "none" / "t.npy"
    result = run(tmp_path, "--out", str(out))
    assert result.exit_code == 1
    assert result.output == f"Error: {out} cannot be written: there is no folder {out.parent}\n"
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK)  # root may write everywhere
    result = run(tmp_path)
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/t.npy cannot be written: the folder {tmp_path} does not allow it\n"
