"""What the ONNX and OpenVINO backends share: the checkpoint's tokenizer, the usual export, mean or first-token pooling.

The graph takes padded ids and mask and gives a vector for each token, as exporters leave it.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

FP32 = "fp32.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
OPSET = 17


class Tokenized:
    """Texts as padded int64 arrays, cut at the model's limit."""

    def __init__(self, options: dict[str, Any]) -> None:
        tokenizers = importlib.import_module("tokenizers")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(Path(options["checkpoint"]) / "tokenizer.json"))
        self._tokenizer.enable_truncation(options["max_tokens"])
        self._tokenizer.enable_padding()

    def __call__(self, texts: list[str]) -> dict[str, Any]:
        """`INPUTS`, int64[texts, longest] each."""
        encoded = self._tokenizer.encode_batch(texts)
        fields = ("ids", "attention_mask", "type_ids")
        return {
            name: np.array([getattr(one, field) for one in encoded], dtype=np.int64)
            for name, field in zip(INPUTS, fields, strict=True)
        }


def pool(hidden: Any, mask: Any, checkpoint: str) -> Any:
    """Vectors of length 1: the first token's, or the mean over tokens, as the checkpoint says."""
    if pooled_by_first_token(checkpoint):
        pooled = hidden[:, 0]
    else:
        weights = mask[:, :, None].astype(np.float32)
        pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def pooled_by_first_token(checkpoint: str) -> bool:
    """Whether 1_Pooling/config.json says so; the mean is the default."""
    file = Path(checkpoint) / "1_Pooling" / "config.json"
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("pooling_mode_cls_token"))


def export(options: dict[str, Any]) -> Path:
    """The encoder as FP32 ONNX with free batch size and length, by PyTorch's own exporter; made once."""
    graph = Path(options["folder"]) / FP32
    if graph.is_file():
        return graph
    torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    checkpoint = options["checkpoint"]
    model = transformers.AutoModel.from_pretrained(checkpoint, attn_implementation="eager", return_dict=False)
    sample = transformers.AutoTokenizer.from_pretrained(checkpoint)(
        ["one text", "and another"], return_tensors="pt", return_token_type_ids=True
    )
    free = {0: "batch", 1: "sequence"}
    partial = graph.with_suffix(".partial")
    torch.onnx.export(
        model.eval(),
        (),
        str(partial),
        kwargs={name: sample[name] for name in INPUTS},
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_axes=dict.fromkeys((*INPUTS, OUTPUT), free),
        opset_version=OPSET,
        dynamo=False,
    )
    return partial.rename(graph)


class OnnxEncoder:
    """A usual graph in ONNX Runtime with one thread and otherwise its defaults."""

    def __init__(self, graph: Path, options: dict[str, Any]) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._tokenized, self._checkpoint = Tokenized(options), options["checkpoint"]
        self.files = [graph]

    def encode(self, texts: list[str]) -> Any:
        """float32[n, dimensions]."""
        given = self._tokenized(texts)
        (hidden, *_) = self._session.run(None, {name: given[name] for name in self._inputs})
        return pool(hidden, given["attention_mask"], self._checkpoint)
