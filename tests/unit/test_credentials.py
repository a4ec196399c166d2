"""Credentials: URLs are shown without them, tokens that cannot work and files that are open to others are refused."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.credentials import (
    MIN_TOKEN_CHARACTERS,
    check_token,
    is_writable_by_all,
    read_secret_file,
    shown_url,
    shown_urls_in,
)

SECRET = "hunter2"
AROUND = st.text(st.characters(codec="utf-8", exclude_characters="hunter2"), max_size=6)
SCHEMES = st.sampled_from(["redis", "rediss", "unix", "http", "https", "HTTP"])
PLACES = st.sampled_from(
    [
        "{scheme}://{secret}@cache:6379/0",
        "{scheme}://{secret}:x@cache:6379/0",
        "{scheme}://:{secret}@cache",
        "{scheme}://user:{secret}@cache/path?db=1",
        "{scheme}://cache:6379/0?password={secret}",
        "{scheme}://cache/0?db=1&username={secret}&password=x",
        "{scheme}:///run/redis.sock?password={secret}",
        "{scheme}://cache#{secret}",
        "{secret}@cache:6379",
    ]
)


@given(scheme=SCHEMES, place=PLACES, before=AROUND, after=AROUND)
def test_no_credential_is_shown(scheme: str, place: str, before: str, after: str) -> None:
    """Wherever it stands, and whatever characters are around it, slashes, question marks and @ included."""
    url = place.format(scheme=scheme, secret=f"{before}{SECRET}{after}")
    assert SECRET not in shown_url(url)


@given(st.text(max_size=80))
def test_any_text_can_be_shown(text: str) -> None:
    """No input raises, and what is shown may be shown again."""
    assert shown_url(shown_url(text)) == shown_url(text)
    shown_urls_in(text)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:hunter2@localhost:6379/0", "redis://***@localhost:6379/0"),
        ("rediss://user:hunter2@cache.example:6380/1", "rediss://***@cache.example:6380/1"),
        ("redis://cache?password=hunter2", "redis://cache?***"),
        ("redis://:hun/ter2@cache", "***"),
        ("http://me:hunter2@[::1]:8081/v1", "http://***@[::1]:8081/v1"),
        ("localhost:8081", "localhost:8081"),
    ],
)
def test_what_is_no_secret_stays(url: str, shown: str) -> None:
    """Scheme, host, port and path are what an operator looks for."""
    assert shown_url(url) == shown


def test_urls_in_a_text_are_shown_likewise() -> None:
    """Each of them; the words around stay."""
    text = "cannot reach http://me:hunter2@gpu:8081 (see redis://cache?password=hunter2 too)"
    assert shown_urls_in(text) == "cannot reach http://***@gpu:8081 (see redis://cache?*** too)"


@pytest.mark.parametrize(
    "value", ["", "ключ-доступа-длинный", "trailing-space-token ", " leading", "a\nb", "tab\tbed" * 4]
)
def test_a_token_that_no_request_can_send_is_refused(value: str) -> None:
    """A header carries visible ASCII, and loses spaces at its ends; the message does not hold the value."""
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        check_token(value)
    assert not value.strip() or value.strip() not in str(caught.value)


def test_a_token_that_can_be_guessed_is_refused() -> None:
    """Fewer than sixteen characters."""
    check_token("x" * MIN_TOKEN_CHARACTERS)
    with pytest.raises(ValueError, match="fewer than 16 characters"):
        check_token("x" * (MIN_TOKEN_CHARACTERS - 1))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    """Its owner's alone, or readable by its group too, as Kubernetes mounts secrets."""
    file = tmp_path / "secret"
    file.write_text("0123")
    file.chmod(mode)
    assert read_secret_file(file) == "0123"


@pytest.mark.parametrize("mode", [0o602, 0o604, 0o620, 0o644, 0o666, 0o777])
def test_a_file_open_to_others_is_refused_behind_a_link_too(tmp_path: Path, mode: int) -> None:
    """A link's own mode says nothing; the file that it leads to is checked and named with the remedy."""
    file, link = tmp_path / "open", tmp_path / "link"
    file.write_text("0123")
    file.chmod(mode)
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(ValueError, match=rf"mode {mode:04o}.*chmod 600 {file}"):
            read_secret_file(path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Its owner could change it under us."""
    file = tmp_path / "secret"
    file.write_text("0123")
    file.chmod(0o600)
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 12345, -1)
    with pytest.raises(ValueError, match="belongs to user 12345"):
        read_secret_file(file)


@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to does not block the start; a folder and a huge file are no secret."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "huge").write_bytes(b"0" * 100_000)
    (tmp_path / "huge").chmod(0o600)
    for name, reason in (("pipe", "not a regular file"), ("huge", "more than 65536 bytes")):
        with pytest.raises(ValueError, match=reason):
            read_secret_file(tmp_path / name)
    with pytest.raises((OSError, ValueError)):
        read_secret_file(tmp_path)


def test_a_file_that_all_may_write_is_noticed(tmp_path: Path) -> None:
    """Behind a link as well; a missing one is not writable."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch(0o644)
    link.symlink_to(file)
    assert not is_writable_by_all(link)
    file.chmod(0o666)
    assert is_writable_by_all(link)
    assert not is_writable_by_all(tmp_path / "missing")
