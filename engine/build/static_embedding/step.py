"""The builder's step that makes the semantic tier's probe: from the vocabulary alone, or fitted to a corpus."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

from engine.build.errors import CalibrationError
from engine.build.running import Run, embed
from engine.build.static_embedding.fitted import fit_probe
from engine.build.static_embedding.quick import ProbeArrays, probe_vectors, quick_probe, spearman, vocabulary_vectors
from engine.protocol import Float32Array, Int32Array

TOLD_EVERY = 0.25  # of a stage's work
FEWEST_TEXTS = 10  # for a rank correlation that says something


def make_probe(
    run: Run,
    tokenize: Callable[[Sequence[str]], list[Int32Array]],
    tokenizer: Tokenizer,
    ordinary: Sequence[str],
    corpus: Sequence[str],
    progress: Callable[[str], None],
) -> ProbeArrays:
    """The quick probe when `corpus` is empty, else the fitted one.

    Reports the rank correlation (Spearman) of probe cosine with the engine's cosine: of the quick probe on `ordinary`
    texts, of the fitted one on texts of the corpus kept back, beside the quick one's on the same.
    Raises CalibrationError when the corpus is too small.
    """

    def vectors(texts: Sequence[Int32Array]) -> Float32Array:
        return embed(run, texts)

    before, after = _special_around(tokenizer)
    special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    progress(f"making the probe from {tokenizer.get_vocab_size()} tokens")
    vocabulary = vocabulary_vectors(vectors, tokenizer.get_vocab_size(), (before, after))
    if not corpus:
        quick = quick_probe(vocabulary, special)
        texts = tokenize(ordinary)
        if len(texts) >= FEWEST_TEXTS:
            quick.meta["spearman"] = round(spearman(probe_vectors(quick.table, texts), vectors(texts)), 4)
            progress(f"probe made: Spearman with the engine {quick.meta['spearman']} over {len(texts)} texts")
        return quick
    told: dict[str, float] = {}

    def tell(stage: str, part: float) -> None:
        if part >= told.get(stage, 0.0):
            told[stage] = part + TOLD_EVERY
            progress(f"fitting the probe to {len(corpus)} texts: {stage} {part:.0%}")

    try:
        probe = fit_probe(vectors, vocabulary, special, tokenize(corpus), progress=tell)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    if "spearman" in probe.meta:
        figures = f"{probe.meta['spearman']}, before fitting {probe.meta['spearman_before']}"
        progress(f"probe fitted: Spearman with the engine {figures}, on texts kept back")
    return probe


def _special_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens this tokenizer puts before and after a text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]
