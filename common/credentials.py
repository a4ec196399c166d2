"""Credentials: what a key or token may look like, how a URL that holds one is shown, who may read a file of secrets.

shown_url("redis://user:hunter2@cache:6379/0?password=x")   ->  "redis://***@cache:6379/0?***"
shown_urls_in("cannot reach http://me:hunter2@gpu:8081")    ->  "cannot reach http://***@gpu:8081"
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

HIDDEN: Final = "***"
MIN_TOKEN_CHARACTERS: Final = 16  # 64 bits in hexadecimal digits: what a guess over the network cannot find
MAX_SECRET_FILE_BYTES: Final = 65_536

_VISIBLE: Final = re.compile(r"[!-~]+")  # ASCII without space: what arrives unchanged in an Authorization header
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PARTS: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#\\\s]*)(?P<path>[^?#\s@]*)(?P<query>[^\s@]*)"
)
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_ALL: Final = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH


def shown_url(url: str) -> str:
    """A URL as it may be shown: scheme, host, port and path; user, password, query and fragment are hidden.

    Where an `@` stands behind the host, so that a password may hold a slash, all of it is hidden.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return HIDDEN if re.search(r"[@?#\s]|://", url) else url
    user, _, host = parts["authority"].rpartition("@")
    shown = f"{parts['scheme']}://{f'{HIDDEN}@' if user else ''}{host}{parts['path']}"
    return f"{shown}?{HIDDEN}" if parts["query"] else shown


def shown_urls_in(text: str) -> str:
    """A text with each URL in it as it may be shown."""
    return _URL.sub(lambda found: shown_url(found.group()), text) if "://" in text else text


def check_token(value: str, at_least: int = MIN_TOKEN_CHARACTERS) -> None:
    """Refuse a key or token that can never match or is easily guessed. Raises ValueError, which does not hold it."""
    if not _VISIBLE.fullmatch(value):
        raise ValueError("it may hold visible ASCII characters alone, no spaces: no request could send it")
    if len(value) < at_least:
        raise ValueError(f"it has fewer than {at_least} characters and could be guessed; use `openssl rand -hex 32`")


def read_secret_file(path: Path) -> str:
    """The ASCII content of a file of secrets, whose open descriptor is checked, so that links lead nowhere else.

    Raises ValueError where it is no regular file, belongs to somebody else, or is open to others (its group may read
    it, as in Kubernetes); OSError where it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block otherwise
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        if found.st_uid not in {os.geteuid(), 0}:
            raise ValueError(f"it belongs to user {found.st_uid}, who could change it; `chown` it to yourself")
        if found.st_mode & (_WRITABLE_BY_OTHERS | _OPEN_TO_ALL):
            mode = stat.S_IMODE(found.st_mode)
            raise ValueError(f"its mode {mode:04o} opens it to others; `chmod 600 {path.resolve()}`")
        if found.st_size > MAX_SECRET_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_SECRET_FILE_BYTES} bytes")
        return file.read(MAX_SECRET_FILE_BYTES).decode("ascii")


def is_writable_by_all(path: Path) -> bool:
    """Whether any user of this machine may change the file that this path leads to; False where it cannot be seen."""
    try:
        return bool(path.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False
