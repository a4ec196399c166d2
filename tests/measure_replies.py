"""What int8 vectors and compressed replies cost, on real vectors: the figures of two pages in docs/decisions.

    python -m tests.measure_replies [BUNDLE]

The texts are this repository's own: for calibration, its hold-out, and the load test's.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.content_coding import codings, compression_steps
from engine.bundle import parse_tokenizer
from engine.model.session import open_model
from engine.model.topology import choose
from gateway.routes.output_types import OutputType, as_json

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / ".dejavec" / "models" / "all-MiniLM-L6-v2"

Floats = npt.NDArray[np.float32]


def texts() -> list[str]:
    """About six hundred texts, from single words to paragraphs."""
    files = (ROOT / "engine/build/calibration.txt", ROOT / "engine/build/hold_out.txt", ROOT / "loadtest/texts.txt")
    lines = (line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def embed(bundle: Path) -> Floats:
    """float32[n, dimensions], unit length."""
    model = open_model(bundle, "cpu", choose(1.0))
    tokenizer = parse_tokenizer(model.tokenizer_json, model.bundle.max_tokens)
    encoded = [np.array(one.ids, np.int32) for one in tokenizer.encode_batch(texts())]
    batches = [encoded[start : start + 32] for start in range(0, len(encoded), 32)]
    return np.vstack([model.runs[0](batch) for batch in batches]).astype(np.float32)


def nearest(similarity: Floats) -> npt.NDArray[np.intp]:
    """Each row's ten most similar others."""
    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    return np.argsort(-others, axis=1)[:, :10]


def overlap(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> float:
    """Share of the ten that both have."""
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(one, other, strict=True)]))


def measure_scales(vectors: Floats) -> None:
    """Ways to scale int8: cosine similarity to the float vectors, and whose ten neighbours stay."""
    print("| dimensions | scale | cosine, mean | least | ten nearest by inner product | by cosine |")
    print("|---|---|---|---|---|---|")
    for dimensions in (vectors.shape[1], vectors.shape[1] // 3):
        rows = vectors[:, :dimensions]
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        largest = np.abs(rows).max(axis=1, keepdims=True)
        root = np.sqrt(dimensions)
        limits = {
            "127": 1.0,
            "127 / largest of the vector": largest,
            "127 sqrt(d) / 4, cut off": 4 / root,
            "127 sqrt(d) / 6, cut off": 6 / root,
            "127 / max(largest, 6 / sqrt(d))": np.maximum(largest, 6 / root),
            "signs": 1e-9,  # the bits of binary and ubinary, as +1 and -1
        }
        expected = nearest(rows @ rows.T)
        for name, limit in limits.items():
            most = 1 if name == "signs" else 127
            numbers = np.clip(np.rint(rows * (127 / limit)), -most, most).astype(np.float32)
            units = numbers / np.linalg.norm(numbers, axis=1, keepdims=True)
            cosine = (units * rows).sum(axis=1)
            by_product, by_cosine = (overlap(expected, nearest(one @ one.T)) for one in (numbers, units))
            print(
                f"| {dimensions} | {name} | {cosine.mean():.5f} | {cosine.min():.5f} | {by_product:.3f} "
                f"| {by_cosine:.3f} |"
            )


def least_ms(work: Callable[[], object], times: int) -> float:
    """The least time of several, in milliseconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - start))
    return min(found)


def measure_compression(vectors: Floats) -> None:
    """Replies of 1, 32 and 2,048 vectors: what writing them takes, and compressing them."""
    noise = np.random.default_rng(0).normal(0, 0.002, (2048, vectors.shape[1]))
    varied = np.resize(vectors, noise.shape) + noise  # so that no vector is there twice
    rows = [row.astype("<f4").tobytes() for row in varied / np.linalg.norm(varied, axis=1, keepdims=True)]
    print("\n| reply | kB | written in ms | " + " | ".join(f"{name}: times smaller | ms" for name in codings()) + " |")
    print("|---|---|---|" + "---|---|" * len(codings()))
    for count in (1, 32, 2048):
        times = max(3, 200 // count)
        for name, to, as_base64 in (
            ("float", OutputType.FLOAT, False),
            ("float, base64", OutputType.FLOAT, True),
            ("int8", OutputType.INT8, False),
        ):
            write = lambda: b",".join(as_json(rows[:count], to, as_base64))  # noqa: B023, E731
            body = write()
            cells = [f"{count} x {name}", f"{len(body) / 1000:.1f}", f"{least_ms(write, times):.2f}"]
            for coding in codings():
                shrink = lambda: [part for step in compression_steps(body, coding) for part in step]  # noqa: B023, E731
                cells += [f"{len(body) / sum(map(len, shrink())):.2f}", f"{least_ms(shrink, times):.2f}"]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    embedded = embed(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
    print(f"{len(embedded)} vectors of {embedded.shape[1]} dimensions\n")
    measure_scales(embedded)
    measure_compression(embedded)
