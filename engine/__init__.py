"""The engine process: one model, its batcher, token ids in and float32 vectors out.

server.py         HTTP around the engine            cli.py        `dejavec engine`
vectors.py        the route `POST /vectors`         replies.py    errors as HTTP replies
serving.py        model, batcher, tokenizer, heartbeat and metrics, opened and closed as one
batching/         the queue, its batches and the threads that run them
model/            a bundle's graph, opened and checked on this machine
build/            checkpoint -> bundle: `dejavec model`
errors.py         what can go wrong                 metrics.py    Prometheus metrics
feeds.py          ragged token ids -> the graph's inputs

Of light imports, for other processes too:

protocol.py       the wire                          bundle.py       the model folder
configuration.py  how settings are read             exit_status.py  how a process that cannot start ends
settings.py       the engine's settings             text_encoder.py  texts to token ids; safe_cuts.py: of a beginning
"""

import os

# ONNX Runtime's Linux wheels (1.31) keep a database of usage events under the home directory and upload it. Nothing of
# this product leaves the machine: set before the library is loaded, which only modules of this package do.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
