"""The study's backends for peers: a GGUF file of a BERT checkpoint, servers that end idle connections, pooling."""

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from loadtest.study.backends.gguf_bert import marked, write
from loadtest.study.backends.served import Served, free_port
from loadtest.study.candidates import BACKENDS

# Answers one request on each connection, then ends it without a word, as servers do to those that idle.
ENDING = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"{}")

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        rows = [{"index": place, "embedding": [len(text), 0]} for place, text in enumerate(texts)]
        self.answer(json.dumps({"data": rows[::-1]}).encode())

    def answer(self, content):
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_an_idle_connection_that_was_ended_is_opened_again() -> None:
    """Each batch is answered, in its order, though the server ends the connection behind every reply."""
    port = free_port()
    served = Served([sys.executable, "-c", ENDING, str(port)], port, [])
    try:
        for _ in range(3):
            assert served.encode(["one", "a second"]).tolist() == [[1, 0], [1, 0]]
    finally:
        served.close()


class Writer:
    """What a GGUFWriter is told, by the method's name."""

    def __init__(self, file: Path, kind: str) -> None:
        self.said: dict[str, Any] = {"kind": kind}
        self.tensors: dict[str, Any] = {}
        self.file = file
        LAST.append(self)

    def add_tensor(self, name: str, tensor: Any, raw_dtype: Any = None) -> None:
        self.tensors[name] = (tensor.dtype, raw_dtype)

    def write_tensors_to_file(self) -> None:
        self.file.write_bytes(b"tensors")

    def __getattr__(self, method: str) -> Any:
        def said(given: Any = None, *, value: Any = None) -> None:
            self.said[method] = given if value is None else value

        return said


LAST: list[Writer] = []


def gguf() -> Any:
    """As much of the gguf package as is used."""
    module: Any = types.ModuleType("gguf")
    names = {"words": "token_embd.weight", "positions": "position_embd.weight", "layer": "blk.0.attn_q.weight"}
    names["layer.bias"] = "blk.0.attn_q.bias"
    module.GGUFWriter = Writer
    module.PoolingType = types.SimpleNamespace(MEAN=1)
    module.LlamaFileType = types.SimpleNamespace(MOSTLY_Q8_0=7)
    module.MODEL_ARCH = types.SimpleNamespace(BERT=0)
    module.GGMLQuantizationType = types.SimpleNamespace(Q8_0="Q8_0")
    module.quants = types.SimpleNamespace(quantize=lambda weights, _kind: weights.astype(np.int8))
    module.get_tensor_name_map = lambda _arch, _layers: types.SimpleNamespace(
        get_name=lambda name, try_suffixes: names.get(name)
    )
    return module


def test_a_checkpoint_becomes_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices in Q8_0, positions and biases in FP32, the pooling layer left out; tokens in llama.cpp's form."""
    monkeypatch.setitem(sys.modules, "gguf", gguf())
    sizes = ("max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {**dict.fromkeys(sizes, 4), "layer_norm_eps": 1e-12, "type_vocab_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    names = ("words", "positions", "layer", "pooler.dense.weight")
    weights = {name: np.ones((2, 32), np.float32) for name in names}
    save_file({**weights, "bert.layer.bias": np.ones(32, np.float16)}, tmp_path / "model.safetensors")
    write(tmp_path, tmp_path / "model.gguf")
    written = LAST.pop()
    assert (tmp_path / "model.gguf").read_bytes() == b"tensors"
    assert written.tensors == {
        "token_embd.weight": (np.int8, "Q8_0"),
        "position_embd.weight": (np.float32, None),
        "blk.0.attn_q.weight": (np.int8, "Q8_0"),
        "blk.0.attn_q.bias": (np.float32, None),
    }
    said = written.said
    assert said["add_token_list"] == [*tokens[:6], "\u2581word", "s"]
    assert said["add_token_types"] == [3, 1, 3, 3, 3, 3, 1, 1]
    assert (said["add_bos_token_id"], said["add_sep_token_id"], said["add_eos_token_id"]) == (3, 4, 4)
    assert (said["add_causal_attention"], said["add_pooling_type"]) == (False, 1)
    assert [marked(token) for token in ("##ing", "a", "[x]", "##")] == ["ing", "\u2581a", "[x]", ""]


@pytest.mark.parametrize(("by_first_token", "said"), [(True, "cls"), (False, "mean")])
def test_infinity_is_told_how_the_checkpoint_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_first_token: bool, said: str
) -> None:
    """It would take the first token's vector of every model."""
    monkeypatch.syspath_prepend(str(BACKENDS))
    backend = importlib.import_module("infinity_int8")
    (tmp_path / "1_Pooling").mkdir()
    pooling = json.dumps({"pooling_mode_cls_token": by_first_token})
    (tmp_path / "1_Pooling" / "config.json").write_text(pooling, encoding="utf-8")
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(backend, "Served", lambda command, *_rest, **_more: started.append(command))
    backend.load({"folder": str(tmp_path), "checkpoint": str(tmp_path)})
    (command,) = started
    assert command[command.index("--pooling-method") + 1] == said
