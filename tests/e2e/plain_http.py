"""The texts that clients embed in tests, the vectors that plain HTTP gives for them, and the comparison."""

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np

API_KEY = "a-key-that-all-clients-here-have"  # of the gateway that asks for one
MODEL = "all-MiniLM-L6-v2"
QUERY = "Where do I change my address?"
LONG = "This text is longer than the model reads. " * 60
TEXTS = ["Der Zug fährt um neun.", QUERY, "電車は九時に出ます。", "A cat sat.", QUERY, LONG]


def plain(root: str, texts: Sequence[str], **more: Any) -> list[np.ndarray[Any, Any]]:
    """What raw HTTP gives, as float32."""
    body = json.dumps({"model": MODEL, "input": list(texts), **more}).encode()
    request = urllib.request.Request(f"{root}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return [np.array(item["embedding"], dtype=np.float32) for item in json.load(reply)["data"]]


def assert_same(vectors: Sequence[Sequence[float]], expected: Sequence[np.ndarray[Any, Any]]) -> None:
    """Bit for bit, in order."""
    got = [np.array(vector, dtype=np.float32).tobytes() for vector in vectors]
    assert got == [vector.tobytes() for vector in expected]


def vectors_of(reply: bytes | str) -> list[list[float]]:
    """Of an OpenAI reply; its items stand in order of their index."""
    items = json.loads(reply)["data"]
    assert [item["index"] for item in items] == list(range(len(items)))
    return [item["embedding"] for item in items]
