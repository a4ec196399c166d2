"""Checkpoint -> bundle: the graph, its INT8 form, the tokenizer, the static embedding and a report.

bundle_builder.py  the order of it all      bundle_folder.py  the folder that a bundle is made in
checkpoint/        the checkpoint's files, choices and weights
graph/             the ONNX graph: FP32, INT8, FP16
imported/          an exported ONNX graph -> bundle
static_embedding/  token vectors for the semantic tier
verify/            `dejavec model verify`
calibration.py     texts                    quality.py  cosine to FP32, batch-independence
running.py         a graph as a function    ranks.py    rank correlation
cli.py             `dejavec model`          errors.py   what can go wrong

    build_bundle("sentence-transformers/all-MiniLM-L6-v2", Path("bundle"), precision="int8")
"""

from engine.build.bundle_builder import build_bundle
from engine.build.checkpoint.files import default_checkpoint
from engine.build.errors import BuildError

__all__ = ["BuildError", "build_bundle", "default_checkpoint"]
