"""The engine process: one model, its batcher, token ids in and float32 vectors out."""

import os

# ONNX Runtime's Linux wheels (1.31) keep a database of usage events under the home directory and upload it. Nothing of
# this product leaves the machine: set before the library is loaded, which only modules of this package do.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
