"""The builder's step that makes the semantic tier's probe: from the vocabulary alone, or fitted to a corpus."""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer

from engine.build.errors import CalibrationError
from engine.build.probe import ProbeArrays, quick_probe, vocabulary_vectors
from engine.build.probe_fit import fit_probe
from engine.build.running import Run, embed
from engine.protocol import Float32Array, Int32Array

TOLD_EVERY = 0.25  # of a stage's work


def make_probe(
    run: Run,
    tokenize: Callable[[Sequence[str]], list[Int32Array]],
    tokenizer: Tokenizer,
    corpus: Sequence[str],
    progress: Callable[[str], None],
) -> ProbeArrays:
    """The quick probe when `corpus` is empty, else the fitted one, which reports its Spearman on texts kept back.

    Raises CalibrationError when the corpus is too small.
    """

    def vectors(texts: Sequence[Int32Array]) -> Float32Array:
        return embed(run, texts)

    before, after = _special_around(tokenizer)
    special = [token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]
    progress(f"making the probe from {tokenizer.get_vocab_size()} tokens")
    vocabulary = vocabulary_vectors(vectors, tokenizer.get_vocab_size(), (before, after))
    if not corpus:
        return quick_probe(vocabulary, special)
    told: dict[str, float] = {}

    def tell(stage: str, part: float) -> None:
        if part >= told.get(stage, 0.0):
            told[stage] = part + TOLD_EVERY
            progress(f"fitting the probe to {len(corpus)} texts: {stage} {part:.0%}")

    try:
        probe = fit_probe(vectors, vocabulary, special, tokenize(corpus), progress=tell)
    except ValueError as error:
        raise CalibrationError(str(error)) from None
    shown = {name: value for name, value in probe.meta.items() if name.startswith("spearman")}
    progress(f"probe fitted: {shown}")
    return probe


def _special_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens this tokenizer puts before and after a text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:start], whole[start + len(plain) :]
