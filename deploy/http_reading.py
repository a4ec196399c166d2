"""Reads what running processes tell of themselves: one GET, bounded in time and size, past proxies and redirects."""

import base64
import email.utils
import http.client
import json
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 4 * 2**20
CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `clock_s`: the server's clock less ours, by its Date header; None without one."""

    status: int
    body: bytes
    clock_s: float | None = None

    def json(self) -> dict[str, Any]:
        """The body as an object; empty where it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def get(url: str, path: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> Reply | None:
    """GET `path` behind the URL; None where nothing answers HTTP there in time. `token` goes as a bearer."""
    parts = urlsplit(url)
    deadline_s = time.monotonic() + timeout_s
    connection = _connection(parts, timeout_s)
    try:
        headers = {"Accept-Encoding": "identity", **_authorization(parts, token)}
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        clock_s = _clock_s(answer.getheader("date"))
        body = b""
        while chunk := answer.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_BYTES or time.monotonic() > deadline_s:
                return None
        return Reply(answer.status, body, clock_s)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _connection(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def _authorization(parts: SplitResult, token: str | None) -> dict[str, str]:
    if token:
        return {"Authorization": f"Bearer {token}"}
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _clock_s(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except (TypeError, ValueError):
        return None
