"""Every Redis key, prefix and hash of the product, in one place. Knows nothing of values.

    dv1:x:<32 hex>          exact entry: one stored vector, with TTL
    dv1:epoch:<namespace>   a namespace's epoch ("*" for all of them) with its MAC, no TTL
    dv1:t:, dv1:ti:         semantic documents and their index: see cache.semantic.index
    dv1:l:, :p:, :a:, :w:, :g:  of a partition: labels (stream), state, alignment matrix, writer's lease, and which
                            gateways exchange now; each with a scope's tag: see cache.semantic.exchange
    dv1:live                values changed while running, for all gateways, no TTL
    dv1:secret-check        tells whether all gateways hash with the same secret, no TTL
    dv1:{k:<id>}:<what>     limits and usage of one API key: see cache.shared_limits and cache.usage
    dv1:processes           which gateway processes count limits now, by time: see cache.usage

What is read under them counts only with the MAC of a gateway that has the key secret: see `cache.authentication`.

An entry's digest is a keyed BLAKE2b of fingerprint, namespace, epochs and token ids, so a key neither reveals its
text to someone who lacks the secret nor matches that of another model, namespace or epoch.
"""

import binascii
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Final

from common.credentials import read_secret_file

PREFIX: Final = b"dv1:"
EXACT_PREFIX: Final = PREFIX + b"x:"
EPOCH_PREFIX: Final = PREFIX + b"epoch:"
LABELS_PREFIX: Final = PREFIX + b"l:"
PARTITION_PREFIX: Final = PREFIX + b"p:"
LEASE_PREFIX: Final = PREFIX + b"w:"
ALIGNMENT_PREFIX: Final = PREFIX + b"a:"
PRESENT_PREFIX: Final = PREFIX + b"g:"
LIVE_KEY: Final = PREFIX + b"live"
SECRET_CHECK_KEY: Final = PREFIX + b"secret-check"
PROCESSES_KEY: Final = PREFIX + b"processes"
ALL_NAMESPACES: Final = "*"

DIGEST_BYTES: Final = 16
SECRET_BYTES: Final = 32


class SecretError(Exception):
    """The key secret cannot be read or made; the message names the file and the remedy."""


def exact_key(digest: bytes) -> bytes:
    """The Redis key of an exact entry."""
    return EXACT_PREFIX + binascii.hexlify(digest)


def epoch_key(namespace: str) -> bytes:
    """The Redis key of a namespace's epoch."""
    return EPOCH_PREFIX + namespace.encode()


def key_id(secret: bytes, digest: bytes) -> str:
    """16 hex digits that stand for an API key, of which `digest` is a hash, in Redis and before operators."""
    return hashlib.blake2b(digest, digest_size=8, key=secret, person=b"dejavec-key").hexdigest()


def api_key_key(identity: str, what: str) -> bytes:
    """The Redis key of something that is kept of one API key; all of one API key's share a hash tag."""
    return PREFIX + b"{k:" + identity.encode() + b"}:" + what.encode()


class Scope:
    """Digests for one combination of fingerprint, namespace and epochs; cheap to use, kept per combination."""

    __slots__ = ("_ids", "_request", "_text", "namespace", "tag")

    def __init__(self, secret: bytes, fingerprint: str, namespace: str, epochs: tuple[str, str]) -> None:
        self.namespace = namespace
        parts = "\n".join((fingerprint, namespace, *epochs)).encode()
        self._ids = hashlib.blake2b(parts, digest_size=DIGEST_BYTES, key=secret, person=b"dejavec-ids")
        self._text = hashlib.blake2b(parts, digest_size=DIGEST_BYTES, key=secret, person=b"dejavec-text")
        self._request = hashlib.blake2b(parts, digest_size=DIGEST_BYTES, key=secret, person=b"dejavec-request")
        tag = hashlib.blake2b(parts, digest_size=DIGEST_BYTES, key=secret, person=b"dejavec-tag")
        self.tag = tag.hexdigest()  # names this scope in Redis where a name is needed: the index, the partition

    def digest_of_ids(self, input_ids: bytes) -> bytes:
        """16 bytes naming these token ids (int32, little-endian) in this scope: the exact tier's digest."""
        state = self._ids.copy()
        state.update(input_ids)
        return state.digest()

    def digest_of_text(self, text: str, prompt: str) -> bytes:
        """16 bytes naming this text behind this prompt in this scope: L0's digest, made before tokenising."""
        state = self._text.copy()
        state.update(f"{len(prompt)}\n{prompt}{text}".encode())
        return state.digest()

    def digest_of_request(self, kind: bytes, body: bytes) -> bytes:
        """16 bytes naming a request's body, as it was sent, and its kind: what else its reply depends on."""
        state = self._request.copy()
        state.update(b"%d\n%b%b" % (len(kind), kind, body))
        return state.digest()


def secret_fingerprint(secret: bytes) -> bytes:
    """What a gateway leaves in Redis so that another one with a different secret is noticed."""
    return hmac.digest(secret, b"dejavec secret check", "sha256").hex().encode()


def load_or_make_secret(path: Path) -> bytes:
    """Read the 32-byte key secret (hex) from a 0600 file, made on first use; safe when several processes start at once.

    Raises SecretError, for a file that is open to others as well.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_once(path)
        return parse_secret(read_secret_file(path).strip())
    except (OSError, ValueError) as error:
        raise SecretError(f"the key secret {path} cannot be used: {error}") from None


def parse_secret(value: str) -> bytes:
    """A secret given as 32 or more hex digits. Raises ValueError."""
    if len(value) < SECRET_BYTES or len(value) > 2 * 64:
        raise ValueError("give 32 to 128 hex digits, e.g. from `openssl rand -hex 32`")
    return bytes.fromhex(value)


def _make_once(path: Path) -> None:
    """Create the file whole or not at all: written aside, then linked, so no reader ever sees half a secret."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its secret is the one
    finally:
        draft.unlink()
