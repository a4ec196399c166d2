"""Make the model folder that Infinity serves: the checkpoint with an INT8 ONNX graph of the usual recipe.

    <infinity venv>/bin/python infinity_model.py CHECKPOINT OUT

Runs in the peer's environment, so it imports nothing of ours. Exports FP32 with PyTorch's own exporter, then
quantises dynamically with one scale for each weight channel, as Optimum does for CPUs with AVX512-VNNI.
"""

import importlib
import shutil
import sys
from pathlib import Path

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
OPSET = 17


def main(checkpoint: Path, out: Path) -> None:
    """Copy the checkpoint and put `onnx/model_quantized.onnx` into the copy."""
    quantization = importlib.import_module("onnxruntime.quantization")
    shutil.copytree(checkpoint, out, dirs_exist_ok=True)
    (out / "onnx").mkdir(exist_ok=True)
    exported = out / "fp32.onnx"
    export(checkpoint, exported)
    quantization.quantize_dynamic(exported, out / "onnx" / "model_quantized.onnx", per_channel=True)
    exported.unlink()


def export(checkpoint: Path, graph: Path) -> None:
    """The encoder as FP32 ONNX with free batch size and length."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModel.from_pretrained(checkpoint, attn_implementation="eager", return_dict=False)
    sample = transformers.AutoTokenizer.from_pretrained(checkpoint)(["one text", "and another"], return_tensors="pt")
    free = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        model.eval(),
        tuple(sample[name] for name in INPUTS),
        str(graph),
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_axes=dict.fromkeys((*INPUTS, OUTPUT), free),
        opset_version=OPSET,
        dynamo=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
