"""Keys: what they depend on, what they hide, and the secret's file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.keys import Scope, SecretError, exact_key, load_or_make_secret, parse_secret

SECRET = b"s" * 32


def scope(
    secret: bytes = SECRET, fingerprint: str = "f1", namespace: str = "ns", epochs: tuple[str, str] = ("1", "1")
) -> Scope:
    return Scope(secret, fingerprint, namespace, epochs)


@pytest.mark.parametrize(
    "other",
    [
        scope(secret=b"t" * 32),
        scope(fingerprint="f2"),
        scope(namespace="other"),
        scope(epochs=("2", "1")),
        scope(epochs=("1", "2")),
    ],
)
def test_digest_depends_on_everything_that_isolates(other: Scope) -> None:
    """Another secret, model, namespace or epoch gives another digest for the same ids and text."""
    assert scope().digest_of_ids(b"abcd") != other.digest_of_ids(b"abcd")
    assert scope().digest_of_text("a", "") != other.digest_of_text("a", "")


@given(st.text(), st.text(), st.text(), st.text())
def test_prompt_and_text_do_not_run_together(prompt: str, text: str, other_prompt: str, other_text: str) -> None:
    """Two different (prompt, text) pairs never share a digest, even when their concatenations are equal."""
    first, second = (prompt, text), (other_prompt, other_text)
    same = scope().digest_of_text(text, prompt) == scope().digest_of_text(other_text, other_prompt)
    assert same == (first == second)


def test_key_names_the_tier_and_nothing_else() -> None:
    """A Redis key is the prefix and the hex digest."""
    assert exact_key(b"\x01\xff") == b"dv1:x:01ff"


def test_secret_file_is_made_once_and_private(tmp_path: Path) -> None:
    """Many processes starting at once agree on one secret, readable by the owner alone."""
    path = tmp_path / "deep" / "secret"
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: load_or_make_secret(path), range(64)))
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", ["", "short", "zz" * 32])
def test_broken_secret_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    """A damaged secret is an error that names the file, not a new secret."""
    path = tmp_path / "secret"
    path.write_text(content)
    with pytest.raises(SecretError, match="secret"):
        load_or_make_secret(path)


def test_parse_secret_wants_hex() -> None:
    """Secrets given in settings are hex of a sane length."""
    assert parse_secret("ab" * 32) == b"\xab" * 32
    with pytest.raises(ValueError, match="hex"):
        parse_secret("abc")
