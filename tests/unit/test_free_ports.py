"""Ports that tests give to the servers they start."""

import socket

import pytest

from deploy.ports import refusal
from tests.free_ports import DidNotStart, free_ports, with_other_ports


def test_ports_are_different_and_can_be_had() -> None:
    """Many at once; none that a server has."""
    ports = free_ports(200)
    assert len(set(ports)) == 200
    with socket.create_server(("127.0.0.1", ports[0])):
        assert refusal(ports[0]) is not None
    assert [refusal(port) for port in ports[1:20]] == [None] * 19


def test_a_server_that_did_not_start_is_started_again_a_few_times() -> None:
    """With other ports each time; then its own error is the test's."""
    tried: list[int] = []

    def fails_twice() -> int:
        tried.extend(free_ports(1))
        if len(tried) < 3:
            raise DidNotStart("the port is taken")
        return tried[-1]

    assert with_other_ports(fails_twice) == tried[2]
    tried.clear()

    def fails() -> int:
        tried.append(0)
        raise DidNotStart("the port is taken")

    with pytest.raises(DidNotStart, match="taken"):
        with_other_ports(fails)
    assert len(tried) == 3
