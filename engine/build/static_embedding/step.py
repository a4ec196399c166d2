"""The builder's step that makes the static embedding: from the vocabulary alone, or fitted to a corpus."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

from engine.build.errors import CalibrationError
from engine.build.running import Run, embed
from engine.build.static_embedding.fitted import fit_static_embedding
from engine.build.static_embedding.quick import (
    StaticEmbedding,
    look_up_vectors,
    quick_static_embedding,
    spearman,
    vocabulary_vectors,
)
from engine.protocol import Float32Array, Int32Array

REPORTED_EVERY = 0.25  # of a stage's work
FEWEST_TEXTS = 10  # for a rank correlation worth reporting


def make_static_embedding(
    run: Run,
    tokenize: Callable[[Sequence[str]], list[Int32Array]],
    tokenizer: Tokenizer,
    ordinary: Sequence[str],
    corpus: Sequence[str],
    progress: Callable[[str], None],
) -> StaticEmbedding:
    """The quick form when `corpus` is empty, else the fitted one.

    Reports the rank correlation (Spearman) of look-up cosine with the engine's cosine: of the quick form on `ordinary`
    texts, of the fitted one on texts of the corpus kept back, beside the quick one's on the same.
    Raises CalibrationError when the corpus is too small.
    """

    def vectors(texts: Sequence[Int32Array]) -> Float32Array:
        return embed(run, texts)

    before, after = _special_around(tokenizer)
    special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    progress(f"making the static embedding from {tokenizer.get_vocab_size()} tokens")
    vocabulary = vocabulary_vectors(vectors, tokenizer.get_vocab_size(), (before, after))
    if not corpus:
        quick = quick_static_embedding(vocabulary, special)
        texts = tokenize(ordinary)
        if len(texts) >= FEWEST_TEXTS:
            figure = quick.meta["spearman"] = round(spearman(look_up_vectors(quick.table, texts), vectors(texts)), 4)
            progress(f"static embedding made: Spearman with the engine {figure} over {len(texts)} texts")
        return quick
    reported: dict[str, float] = {}

    def report(stage: str, part: float) -> None:
        if part >= reported.get(stage, 0.0):
            reported[stage] = part + REPORTED_EVERY
            progress(f"fitting the static embedding to {len(corpus)} texts: {stage} {part:.0%}")

    try:
        fitted = fit_static_embedding(vectors, vocabulary, special, tokenize(corpus), progress=report)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    if "spearman" in fitted.meta:
        figures = f"{fitted.meta['spearman']}, before fitting {fitted.meta['spearman_before']}"
        progress(f"static embedding fitted: Spearman with the engine {figures}, on texts kept back")
    return fitted


def _special_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens this tokenizer puts before and after a text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]
