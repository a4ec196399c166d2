"""TLS in front of a server that has none: ends it, asks for a client's certificate, and hands the bytes on.

async with tls_front(port, files) as port: ...
"""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

EXTENSIONS = "subjectAltName=IP:127.0.0.1,DNS:localhost"


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, and of a server and a client that it vouches for."""

    ca: Path
    server: Path
    client: Path


def make_certificates(folder: Path, extensions: str = EXTENSIONS) -> Certificates:
    """Of an authority of our own, for the names in `extensions`; each file holds the key as well. Skips the test
    without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder.mkdir(exist_ok=True)
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "client")))
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=authority", "-keyout", "ca.key",
             "-out", "ca.pem", "-days", "2", folder=folder)  # fmt: skip
    for name in ("server", "client"):
        (folder / "extensions").write_text(extensions)
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                 "-out", f"{name}.csr", folder=folder)  # fmt: skip
        _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-extfile", "extensions", "-days", "2", "-out", f"{name}.crt", folder=folder)  # fmt: skip
        both = (folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text()
        (folder / f"{name}.pem").write_text(both)
    return made


@asynccontextmanager
async def tls_front(to: int, files: Certificates, verify: ssl.VerifyMode = ssl.CERT_REQUIRED) -> AsyncIterator[int]:
    """A port of 127.0.0.1 that speaks TLS to clients with a certificate, and hands on to port `to`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.load_cert_chain(files.server)
    context.verify_mode = verify
    at_work: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        to_server = None
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", to)
            await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
        except asyncio.CancelledError:
            pass
        finally:
            for one in (writer, to_server):
                if one is not None:
                    one.close()
            at_work.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(at_work):
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while content := await reader.read(65_536):
            writer.write(content)
            await writer.drain()
    writer.close()


def _openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)
