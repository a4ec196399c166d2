"""An engine for tests: a tiny random model as a real bundle, and any engine served on a free port."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from engine.build.running import open_graph
from engine.bundle import BUNDLE_FILE, CHECK_FILE, GRAPH_FILE, STATIC_EMBEDDING_FILE, TOKENIZER_FILE, Bundle, sha256_of
from engine.feeds import Run, feeds
from engine.model.check_vectors import CheckVectors
from engine.model.session import Model, open_model
from engine.model.topology import Topology
from engine.server import DrainingServer, EngineApp, server_config
from engine.serving import Engine
from engine.settings import EngineSettings

VOCABULARY = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
DIMENSIONS = 8
MAX_TOKENS = 16
ONE_CORE = Topology(cores=1, sessions=1, threads=1)


def write_tiny_bundle(folder: Path, *, seed: int = 7, **changes: Any) -> Path:
    """A bundle of precision fp32 whose graph is the normalised mean of random token vectors; `seed` is theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_mean_graph(seed), folder / GRAPH_FILE)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / STATIC_EMBEDDING_FILE).write_bytes(b"")
    write_check_vectors(folder)
    entries: dict[str, Any] = {
        "model": "tiny",
        "source": "random",
        "source_sha256": "0" * 64,
        "tokenizer_sha256": sha256_of(folder / TOKENIZER_FILE),
        "graph_sha256": sha256_of(folder / GRAPH_FILE),
        "static_embedding_sha256": sha256_of(folder / STATIC_EMBEDDING_FILE),
        "check_sha256": sha256_of(folder / CHECK_FILE),
        "precision": "fp32",
        "dimensions": DIMENSIONS,
        "max_tokens": MAX_TOKENS,
        "vocab_size": len(VOCABULARY),
        "pooling": "mean",
        "normalize": True,
        "prompts": {"query": "query: "},
        "default_prompt_name": None,
        "recipe": {},
        "provenance": {},
        "quality": {},
    }
    bundle = Bundle.model_validate(entries | changes)
    (folder / BUNDLE_FILE).write_text(json.dumps(bundle.model_dump()))
    return folder


def write_check_vectors(folder: Path) -> None:
    """What the folder's graph gives for two texts, as if FP32 gave the same."""
    run = open_graph((folder / GRAPH_FILE).read_bytes(), 1)
    texts = (np.array([2, 3], np.int32), np.array([4, 5, 6], np.int32))
    vectors = np.concatenate([run(feeds([text]))["embeddings"] for text in texts])
    (folder / CHECK_FILE).write_bytes(CheckVectors(texts, vectors, vectors).to_bytes())


def tiny_model(folder: Path, *runs: Run) -> Model:
    """The tiny bundle opened; `runs` take the place of its own."""
    model = open_model(write_tiny_bundle(folder), "cpu", ONE_CORE)
    return replace(model, runs=runs) if runs else model


def engine_of(model: Model, **settings: Any) -> Engine:
    """An engine around a model, with no setting from outside."""
    return Engine(EngineSettings(**settings), model, ONE_CORE)


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    """The engine on a free port of 127.0.0.1, in a thread; gives its URL and shuts it down gracefully."""
    app = EngineApp(engine)
    config = server_config(app, EngineSettings(engine_port=1))
    config.port, config.loop = 0, "asyncio"
    server = DrainingServer(app, config)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, started)))
    thread.start()
    try:
        assert started.wait(120)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


async def _serve(server: uvicorn.Server, started: threading.Event) -> None:
    startup = server.startup

    async def start(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = start  # type: ignore[method-assign]
    await server.serve()


def _mean_graph(seed: int) -> onnx.ModelProto:
    """A graph with the inputs of `engine.feeds` -> embeddings float32[B, DIMENSIONS]."""
    table = np.random.default_rng(seed).normal(size=(len(VOCABULARY), DIMENSIONS)).astype(np.float32)
    shapes = {"input_ids": "T", "position_ids": "T", "rows": "BS", "slots": "T", "attention_mask": "BS"}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, list(shape)) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Gather", ["tokens", "rows"], ["padded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "one"], ["row"]),
        helper.make_node("MatMul", ["row", "padded"], ["sum"]),
        helper.make_node("Squeeze", ["sum", "one"], ["pooled"]),
        helper.make_node("LpNormalization", ["pooled"], ["embeddings"], axis=1, p=2),
    ]
    outputs = [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["B", DIMENSIONS])]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1]), "one")]
    graph = helper.make_graph(nodes, "mean", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
