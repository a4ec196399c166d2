"""How commands ask a gateway, and what they make of its answer."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click
import pytest

from gateway.client.asking import ask

ANSWERS: dict[str, tuple[int, Any]] = {
    "/large": (200, {"keys": ["x" * 1000] * 2000}),
    "/refused": (404, {"error": {"message": "there is no such thing"}}),
    "/other": (404, {"error": "of another server"}),
    "/list": (500, ["of another server"]),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, content = ANSWERS[self.path]
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server with these answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_large_answer_is_read_to_its_end(url: str) -> None:
    """However many pieces the answer arrives in."""
    assert ask(url, "GET", "/large", None) == ANSWERS["/large"][1]


def test_a_refusal_is_the_gateways_message(url: str) -> None:
    """Its own words, without more."""
    with pytest.raises(click.ClickException, match=r"^there is no such thing$"):
        ask(url, "GET", "/refused", None)


@pytest.mark.parametrize("path", ["/other", "/list"])
def test_an_error_of_another_shape_is_one_message(url: str, path: str) -> None:
    """What answers there may be no gateway."""
    with pytest.raises(click.ClickException, match=f"answers {ANSWERS[path][0]}$"):
        ask(url, "GET", path, None)
