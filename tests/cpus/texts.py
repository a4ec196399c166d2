"""Texts of different lengths as token ids: single words, questions, and chunks of documents."""

import random
from collections.abc import Sequence
from pathlib import Path

from engine.build.calibration import DEFAULT_HOLD_OUT
from engine.bundle import TOKENIZER_FILE, parse_tokenizer, read_bundle

WORDS = (
    "invoice river violin seven yesterday protein harbour encryption Lisbon quietly gravel negotiate lamp orthography "
    "kubernetes umbrella 42 bread asymmetric ok thunderstorm if Pythagoras chess"
).split()
N_QUESTIONS = 33
N_CHUNKS = 3
CHUNK_TOKENS = 200
BATCH = 15
LONG = 64  # tokens; texts above share a batch, because emulated attention over much padding takes minutes


def sample_texts(bundle: Path) -> list[list[int]]:
    """Token ids of 24 words, 33 questions and 3 chunks of about 200 tokens, by the bundle's own tokenizer."""
    tokenizer = parse_tokenizer((bundle / TOKENIZER_FILE).read_bytes(), read_bundle(bundle).max_tokens)
    lines = DEFAULT_HOLD_OUT.read_text(encoding="utf-8").splitlines()
    words_a_line = [len(line.split()) for line in lines]
    questions = [line for line, words in zip(lines, words_a_line, strict=True) if words >= 4][::3][:N_QUESTIONS]
    texts = [*WORDS, *questions, *_chunks(lines)]
    encoded: list[list[int]] = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    return encoded


def make_batches(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices into `texts`: the short ones shuffled, 15 to a batch; the long ones together, with two short ones."""
    short = [index for index, text in enumerate(texts) if len(text) <= LONG]
    long = [index for index, text in enumerate(texts) if len(text) > LONG]
    shuffled = random.Random(0).sample(short, len(short))
    batches = [shuffled[start : start + BATCH] for start in range(0, len(shuffled), BATCH)]
    return [*batches, [shuffled[0], *long, shuffled[-1]]] if long else batches


def _chunks(lines: Sequence[str]) -> list[str]:
    """Neighbouring lines joined, of about as many words as make CHUNK_TOKENS tokens."""
    chunks: list[str] = []
    gathered: list[str] = []
    for line in reversed(lines):
        gathered += line.split()
        if len(gathered) >= CHUNK_TOKENS * 3 // 4 + len(chunks):
            chunks.append(" ".join(gathered))
            gathered = []
    return chunks[:N_CHUNKS]
