"""The id that a request has in replies and in every log: the client's own, or one made where it came in.

id = request_ids.accepted(headers.get(HEADER_NAME)) or request_ids.new()
request_ids.current.set(id)          # log lines of this task carry it from here on
"""

import itertools
import os
import re
from contextvars import ContextVar
from typing import Final

HEADER: Final = "x-request-id"
HEADER_NAME: Final = HEADER.encode()
SAFE: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

_PROCESS: Final = "req-" + os.urandom(8).hex()
_numbers: Final = itertools.count()

current: Final[ContextVar[str]] = ContextVar("request_id", default="")


def accepted(value: bytes | None) -> str:
    """A given id that is safe to repeat in headers and logs; empty for any other."""
    return value.decode("ascii") if value and SAFE.fullmatch(value) else ""


def new() -> str:
    """A fresh id."""
    return f"{_PROCESS}{next(_numbers):08x}"
