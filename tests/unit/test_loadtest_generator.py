"""The closed-loop generator against tiny servers: it counts answers, tiers and failures, and keeps connections."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from loadtest.bench.generator import (
    Connection,
    GeneratorError,
    Measurement,
    Task,
    content_length,
    drive,
    header,
)
from loadtest.bench.load import Load, lua_string, wrk_measurement
from loadtest.bench.processes import BenchmarkError
from loadtest.bench.wire import http_request

REQUEST = http_request("http://host:1", "/x", b"body")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cache: local\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"

Talk = Callable[[socket.socket], None]


def answering(*answers: bytes) -> Talk:
    """Answer each request with the next of `answers`, in turn, on every connection."""

    def talk(connection: socket.socket) -> None:
        number = 0
        while connection.recv(65536):
            connection.sendall(answers[number % len(answers)])
            number += 1

    return talk


@contextmanager
def serving(talk: Talk) -> Iterator[int]:
    """Serve each connection in a thread with `talk`; the port."""
    threads: list[threading.Thread] = []

    def handle(connection: socket.socket) -> None:
        with connection:
            try:
                talk(connection)
            except OSError:
                return  # the generator hung up

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=handle, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join(10)
            for thread in threads:
                thread.join(10)


def wait_for_answer(connection: Connection) -> None:
    """Read until an answer is whole."""
    while not connection.receive():
        pass


def run(port: int, connections: int = 2) -> Measurement:
    """A fifth of a second of load."""
    return drive(Task("127.0.0.1", port, [REQUEST], connections, seconds=0.2, warmup_s=0.05))


def test_answers_are_counted_by_tier() -> None:
    """Answers of status 200 make the rate; their x-cache is counted."""
    with serving(answering(OK)) as port:
        found = run(port)
    assert found.rate > 0
    assert found.failed == {}
    assert found.tiers.keys() == {"local"}
    assert 0 < found.p50_ms <= found.p99_ms


def test_other_statuses_are_failures_not_rate() -> None:
    """Of answers that alternate, only half make the rate."""
    with serving(answering(OK, BUSY)) as port:
        found = run(port)
    assert abs(found.failed["503"] - found.tiers["local"]) <= 2
    assert found.rate > 0


def test_closed_connections_are_counted_and_opened_again() -> None:
    """A server that hangs up after each request fails every one of them."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(65536)

    with serving(hang_up) as port:
        found = run(port)
    assert found.rate == 0
    assert found.failed["closed"] > 0


def test_answers_in_pieces() -> None:
    """An answer that arrives byte by byte, its head too, is one answer."""

    def dribble(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv(65536):
            for byte in OK:
                connection.sendall(bytes([byte]))

    with serving(dribble) as port:
        connection = Connection("127.0.0.1", port)
        connection.send(REQUEST)
        wait_for_answer(connection)
        assert connection.head.startswith(b"http/1.1 200 ok")
        connection.sock.close()


def test_more_than_one_answer_is_an_error() -> None:
    """A server that sends more than it was asked for cannot be measured."""
    with serving(answering(OK + OK)) as port:
        connection = Connection("127.0.0.1", port)
        connection.send(REQUEST)
        with pytest.raises(GeneratorError, match="more than one answer"):
            wait_for_answer(connection)
        connection.sock.close()


def test_headers() -> None:
    """Headers are found by name, wherever they stand."""
    head = b"http/1.1 200 ok\r\ncontent-length: 12\r\nx-cache:exact\r\n"
    assert header(head, b"\r\nx-cache:") == b"exact"
    assert header(head, b"\r\nx-other:") == b""
    assert content_length(head) == 12
    with pytest.raises(GeneratorError, match="without content-length"):
        content_length(b"http/1.1 200 ok\r\ntransfer-encoding: chunked\r\n")


def test_task_survives_json() -> None:
    """Requests of any bytes reach the child process as they are."""
    task = Task("host", 1, [bytes(range(256))], 3, 4.0)
    assert Task.from_json(task.to_json()) == task


def test_child_process_measures() -> None:
    """The generator as a process of its own gives the same kind of figures."""
    with serving(answering(OK)) as port:
        found = Load(seconds=0.2).measure(f"http://127.0.0.1:{port}", [REQUEST], 2)
    assert found.tiers["local"] > 0


def test_child_process_faults_are_told() -> None:
    """A server that is not there is named, not traced."""
    with serving(answering(OK)) as port:
        pass
    with pytest.raises(BenchmarkError, match=r"generator: .*refused"):
        Load(seconds=0.2).measure(f"http://127.0.0.1:{port}", [REQUEST], 2)


def test_wrk_output() -> None:
    """The last line that the script prints becomes a measurement; refusals count as failed."""
    line = b'{"requests":100,"us":2000000,"p50_us":500,"p99_us":900,"status":10,"closed":1}'
    found = wrk_measurement(b"Running 2s test\n...\n" + line + b"\n")
    assert (found.rate, found.p50_ms, found.p99_ms) == (45.0, 0.5, 0.9)
    assert found.failed == {"status": 10, "closed": 1}
    with pytest.raises(BenchmarkError, match="something else"):
        wrk_measurement(b"unable to connect")


def test_lua_strings_hold_any_bytes() -> None:
    """Every byte is escaped by its number."""
    assert lua_string(b'a"\n\x00\xff') == '"\\097\\034\\010\\000\\255"'
