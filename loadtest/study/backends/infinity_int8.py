"""Infinity's server with its Optimum engine on the usual dynamic INT8 graph.

It does not read how a checkpoint pools: unless told otherwise it takes the first token's vector. Its warm-up computes
32 long texts again and again, for minutes on one core, so it is left out; the study warms up itself.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import onnx_int8
from served import HOST, Served, free_port
from usual_graph import pooled_by_first_token

PACKAGES = ("infinity-emb", "optimum", "onnxruntime")
MODEL = "model"


def prepare(options: dict[str, Any]) -> None:
    """The checkpoint's folder with `onnx/model_quantized.onnx`; once."""
    folder = Path(options["folder"]) / MODEL
    onnx_int8.prepare(options)
    if not (folder / "onnx" / "model_quantized.onnx").is_file():
        shutil.copytree(options["checkpoint"], folder, dirs_exist_ok=True)
        (folder / "onnx").mkdir(exist_ok=True)
        shutil.copyfile(Path(options["folder"]) / onnx_int8.GRAPH, folder / "onnx" / "model_quantized.onnx")


def load(options: dict[str, Any]) -> Served:
    """See worker.py."""
    folder, port = Path(options["folder"]) / MODEL, free_port()
    pooling = "cls" if pooled_by_first_token(options["checkpoint"]) else "mean"
    command = (
        str(Path(sys.executable).with_name("infinity_emb")), "v2", "--model-id", str(folder), "--engine", "optimum",
        "--device", "cpu", "--host", HOST, "--port", str(port), "--served-model-name", "study",
        "--pooling-method", pooling, "--no-model-warmup",
    )  # fmt: skip
    offline = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    return Served(command, port, [folder / "onnx" / "model_quantized.onnx"], environment=offline)
