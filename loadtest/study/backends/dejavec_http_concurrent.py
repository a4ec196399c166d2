"""This project's gateway and engine over HTTP, each text a request of its own, over 32 connections."""

from typing import Any

from dejavec_http import Encoder

PACKAGES = ("dejavec", "onnxruntime")
CONNECTIONS = 32


def load(options: dict[str, Any]) -> Encoder:
    """See worker.py."""
    return Encoder(options, CONNECTIONS)
