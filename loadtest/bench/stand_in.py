"""An engine that computes nothing: what a gateway does alone, with an answer there at once.

It takes `info.json` and `tokenizer.json` of a real engine from the folder in STAND_IN_FOLDER, and answers each text of
`POST /vectors` with the same unit vector, by the engine's binary protocol. Run by uvicorn, as `bare_apps` are.
"""

import os
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

import orjson

FOLDER_VARIABLE: Final = "STAND_IN_FOLDER"
FILES: Final = {"/info": "info.json", "/tokenizer.json": "tokenizer.json"}
REQUEST_MAGIC, RESPONSE_MAGIC = b"DVQ1", b"DVV1"
COUNT_AT: Final = 8  # magic, lane, number of texts
TOKENS_PER_S: Final = b"1000000"

Message = MutableMapping[str, Any]


def prepare(folder: Path, info: bytes, tokenizer: bytes) -> None:
    """Write what a real engine answers, but for its static embedding, which a stand-in does not have."""
    (folder / FILES["/info"]).write_bytes(orjson.dumps(orjson.loads(info) | {"static_embedding_sha256": ""}))
    (folder / FILES["/tokenizer.json"]).write_bytes(tokenizer)


def vectors(body: bytes, dimensions: int) -> bytes:
    """The answer to a request for vectors. Raises ValueError for anything else."""
    if body[:4] != REQUEST_MAGIC:
        raise ValueError("not a request for vectors")
    count = int(struct.unpack_from("<I", body, COUNT_AT)[0])
    vector = struct.pack(f"<{dimensions}f", 1.0, *[0.0] * (dimensions - 1))
    return RESPONSE_MAGIC + struct.pack("<2I", count, dimensions) + vector * count


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The engine's routes that a gateway uses."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    folder = Path(os.environ[FOLDER_VARIABLE])
    info = _info(folder)
    if scope["path"] in FILES:
        content = (folder / FILES[scope["path"]]).read_bytes()
    else:
        content = vectors(body, info["dimensions"]) if scope["path"] == "/vectors" else b"{}"
    headers = [
        (b"content-length", str(len(content)).encode()),
        (b"x-dejavec-fingerprint", info["fingerprint"].encode()),
        (b"x-dejavec-tokens-per-second", TOKENS_PER_S),
        (b"x-dejavec-run-tokens-per-second", TOKENS_PER_S),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


_read: dict[Path, dict[str, Any]] = {}


def _info(folder: Path) -> dict[str, Any]:
    if folder not in _read:
        _read[folder] = orjson.loads((folder / FILES["/info"]).read_bytes())
    return _read[folder]
