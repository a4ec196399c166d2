"""Checkpoint -> bundle: the graph, its INT8 form, the tokenizer and a report. Knows nothing of serving.

checkpoint.py    finding a checkpoint's files         bert_weights.py  safetensors -> arrays
choices.py       pooling, length, prompts             bert_graph.py    arrays -> ONNX graph
calibration.py   texts                                linears.py       FP32 and INT8 products
activations.py   what they show of each input         rounding.py      weights to int8: GPTQ, exact everywhere
quantize.py      FP32 -> INT8                         onnx_writer.py   nodes, constants, bytes
half.py          FP32 -> FP16, for GPUs
quality.py       cosine, batch-independence           kernel_check.py  writes the check of exact products
bundle_builder.py the order of it all                  cli.py           `dejavec model`
"""

from engine.build.bundle_builder import build_bundle
from engine.build.checkpoint import default_checkpoint
from engine.build.errors import BuildError

__all__ = ["BuildError", "build_bundle", "default_checkpoint"]
