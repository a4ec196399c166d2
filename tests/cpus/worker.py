"""What runs on the emulated CPU: a graph opened as the engine opens it, texts embedded, integer products checked.

    python -m tests.cpus.worker JOB.json VECTORS.npy

JOB.json holds a Job; the vectors, float32[n, dimensions], of each text alone are written to VECTORS.npy, and an Answer
is printed as JSON. Imports of the engine only what needs no more than numpy, orjson and ONNX Runtime.
"""

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

from engine.feeds import feeds
from engine.model.cpu_session import Products, integer_products, open_cpu_session
from engine.protocol import Float32Array

PRODUCTS_GRAPH = "products.onnx"
PRODUCTS_ARRAYS = "products.npz"
ROWS = (1, 2, 3, 12)  # kernels differ by the number of rows


@dataclass(frozen=True, slots=True)
class Job:
    """What to compute. `batches` are lists of indices into `texts`; `products` a folder by `products.py`, or empty."""

    graph: str
    texts: list[list[int]]  # token ids
    batches: list[list[int]] = field(default_factory=list)
    products: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found. `kernel_check`: what the engine's own check says of integer products here."""

    machine: str
    onnxruntime: str
    kernel_check: Products
    wrong_products: int
    products: int
    batch_dependent: list[int]  # texts that have another vector in one of the batches
    run_s: float


def main() -> None:
    """Do the job that the command line names."""
    job_file, vectors_file = map(Path, sys.argv[1:])
    job = Job(**json.loads(job_file.read_text(encoding="utf-8")))
    started_s = time.perf_counter()
    wrong, products = count_wrong_products(Path(job.products)) if job.products else (0, 0)
    vectors, dependent = embed(job)
    np.save(vectors_file, vectors)
    answer = Answer(
        machine=platform.machine(),
        onnxruntime=ort.__version__,
        kernel_check=integer_products(),
        wrong_products=wrong,
        products=products,
        batch_dependent=dependent,
        run_s=round(time.perf_counter() - started_s, 2),
    )
    print(json.dumps(asdict(answer)))


def embed(job: Job) -> tuple[Float32Array, list[int]]:
    """The vector of each text alone, and which texts change a byte of it in a batch."""
    session = open_cpu_session(Path(job.graph))
    texts = [np.array(ids, np.int32) for ids in job.texts]

    def run(indices: list[int]) -> Float32Array:
        vectors: Float32Array = session.run(["embeddings"], feeds([texts[index] for index in indices]))[0]
        return vectors

    alone = np.concatenate([run([index]) for index in range(len(texts))])
    changed: set[int] = set()
    for batch in job.batches:
        together = run(batch)
        changed |= {i for i, vector in zip(batch, together, strict=True) if vector.tobytes() != alone[i].tobytes()}
    return alone, sorted(changed)


def count_wrong_products(folder: Path) -> tuple[int, int]:
    """How many elements of a graph's integer products differ from the right ones, and how many were compared."""
    session = open_cpu_session(folder / PRODUCTS_GRAPH)
    names = [output.name for output in session.get_outputs()]
    wrong = compared = 0
    with np.load(folder / PRODUCTS_ARRAYS) as arrays:
        codes = {node.name: arrays[node.name] for node in session.get_inputs()}
        exact = [arrays[name] for name in names]
    for rows in ROWS:
        found = session.run(names, {name: value[:rows] for name, value in codes.items()})
        for product, right in zip(found, exact, strict=True):
            wrong += int(np.count_nonzero(product != right[:rows]))
            compared += product.size
    return wrong, compared


if __name__ == "__main__":
    main()
