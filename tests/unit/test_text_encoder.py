"""Token ids of long texts: what is cut before tokenizing changes nothing."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors

from engine.bundle import BundleError, parse_tokenizer
from engine.safe_cuts import safe_cuts
from engine.text_encoder import EncodedText, TextEncoder
from tests.tokenizers_of_all_kinds import CUT_AT_SPACES, SENTENCES, TOKENIZED_WHOLE, byte_level, word_piece

MAX_TOKENS = 12
EVERY = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = {name: make().to_str().encode() for name, make in (CUT_AT_SPACES | TOKENIZED_WHOLE).items()}

pieces = st.one_of(
    st.sampled_from(["the ", "quick", "brown", " ", "  ", "\n", "\t ", "\u00a0", "\u3000", "\u200b", "\u2028"]),
    st.sampled_from(
        ["[MASK]", "[MASK", "<mask>", "[SEP]", "</s>", "brown fox", "<", "it's ", "'re", " 've", "100 ", "5%"]
    ),
    st.sampled_from(
        ["e\u0301", "\u00e9 ", "\u0301", "\u0323\u0301 ", "\u00f6 ", "\u0600 ", "\u0600a ", "\ufb01 ", "\u2460"]
    ),
    st.sampled_from(
        ["電車", "電 車", "。", "、 ", "か\u3099", "한", "\u1112\u1161\u11ab ", "กำ ", "क्\u200dष ", "\uff21 "]
    ),
    st.sampled_from(
        ["😀", "👨‍👩‍👧 ", "🇩🇪", "\x00", "\x07 ", "\ufffd", "_", "a_b ", "\u2581", "\u2581the", ". ", "“a” ", "…"]
    ),
    st.integers(1, 60).map(lambda n: "x" * n + " "),
    st.integers(1, 60).map(lambda n: " " * n),
    st.sampled_from(SENTENCES).map(lambda sentence: sentence + " "),
    st.text(max_size=12),
    st.text(alphabet="ab .", max_size=12),
)
texts = st.lists(pieces, max_size=20).map("".join)


def whole(tokenizer: Tokenizer, text: str) -> EncodedText:
    """What the tokenizer itself makes of all of a text."""
    encoding = tokenizer.encode(text)
    truncated = len(encoding.overflowing) > 0
    return EncodedText(np.array(encoding.ids, dtype=np.int32).tobytes(), len(encoding.ids), truncated)


@pytest.mark.parametrize("kind", JSON)
def test_a_cut_text_has_the_tokens_of_the_whole(kind: str) -> None:
    """Ids, number of tokens and truncation, for every kind of tokenizer and at every limit, however little is tried."""
    reference = {limit: parse_tokenizer(JSON[kind], limit) for limit in (3, 4, MAX_TOKENS)}
    encoders = {limit: [TextEncoder(JSON[kind], limit, first) for first in (1, 5, 16)] for limit in reference}

    @EVERY
    @given(given_texts=st.lists(texts, min_size=1, max_size=3))
    @example(["x" * 19_900])
    @example(["the " * 5_000, "a"])
    @example(["the quick brown \u0600 fox " * 9, "foo  <mask>  bar " * 9])
    def check(given_texts: list[str]) -> None:
        for limit, tokenizer in reference.items():
            expected = [whole(tokenizer, text) for text in given_texts]
            for encoder in encoders[limit]:
                assert encoder.encode(given_texts) == expected
                assert [one for part in encoder.steps(iter(given_texts)) for one in part] == expected

    check()


@pytest.mark.parametrize("kind", CUT_AT_SPACES)
def test_every_safe_place_keeps_the_tokens_before_it(kind: str) -> None:
    """Not only the places that are tried: the tokens before any safe place are the first ones of the whole."""
    tokenizer = Tokenizer.from_buffer(JSON[kind])
    cuts = safe_cuts(tokenizer)

    @EVERY
    @given(text=texts)
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for at in {cuts.before(text, limit) for limit in range(3, len(text))}:
            before = tokenizer.encode(text[:at], add_special_tokens=False).ids
            assert before == ids[: len(before)], (text[:at], text[at:])

    check()


@pytest.mark.parametrize("kind", CUT_AT_SPACES)
def test_a_long_text_is_cut_before_it_is_tokenized(kind: str) -> None:
    """Of a text of ordinary words only a beginning is looked at, at every one of these tokenizers."""
    cuts = safe_cuts(Tokenizer.from_buffer(JSON[kind]))
    text = SENTENCES[0] * 100
    assert 1000 < cuts.before(text, 2000) <= 2000


@pytest.mark.parametrize(
    ("kind", "beginning", "rest"),
    [
        ("xlm-r, metaspace alone", "lazy \u200b", " dog"),  # the letter vanishes, and leaves a space at the end
        ("xlm-r, metaspace alone", "lazy ö", " dog"),  # the letter becomes "o "
        ("xlm-r, metaspace alone", "lazy \u0601a", " dog"),  # one grapheme becomes a space, its letter is lost
        ("xlm-r, metaspace alone", "lazy \u0600", " ylem"),  # one grapheme with the space: "xylem"
        ("roberta", "lazy ", " <mask>"),  # the mask takes all white space before it
        ("bert, an added token that is no part of a word", "the quick", "電車"),
    ],
)
def test_places_that_look_safe_and_are_not(kind: str, beginning: str, rest: str) -> None:
    """There the tokens before the place do change with what follows, and it is not a place to cut."""
    tokenizer = Tokenizer.from_buffer(JSON[kind])
    before, whole = (tokenizer.encode(text, add_special_tokens=False).ids for text in (beginning, beginning + rest))
    assert before != whole[: len(before)]
    assert safe_cuts(tokenizer).before(beginning + rest, len(beginning)) != len(beginning)


def test_bert_cuts_where_there_are_no_spaces() -> None:
    """Ideographs and punctuation are words of their own to it; a mark within an added token is not a safe place."""
    cuts = safe_cuts(word_piece())
    assert cuts.before("電" * 100, 50) == 50
    assert cuts.before("!" * 100, 50) == 50
    assert cuts.before("a" * 100, 50) == 0
    assert cuts.before("[" * 100, 50) == 0


@pytest.mark.parametrize("kind", TOKENIZED_WHOLE)
def test_what_is_not_known_to_be_safe_is_not_cut(kind: str) -> None:
    """Tokenizers whose words may reach across a space, or that are of another kind."""
    assert safe_cuts(Tokenizer.from_buffer(JSON[kind])).before(SENTENCES[0] * 100, 2000) == 0


def test_long_batches_come_in_steps() -> None:
    """No step takes many characters, whatever the texts; the results are in order."""
    encoder = TextEncoder(JSON["bert"], MAX_TOKENS)
    given_texts = [f"{'the ' * number}again" for number in range(1, 4000, 13)]
    parts = list(encoder.steps(given_texts))
    assert len(parts) > 5
    assert max(map(len, parts)) <= 40
    assert [one for part in parts for one in part] == encoder.encode(given_texts)


def test_a_text_without_tokens_is_tried_step_by_step() -> None:
    """White space yields nothing to count: between longer and longer beginnings the work may be ended."""
    encoder = TextEncoder(JSON["bert"], MAX_TOKENS)
    parts = list(encoder.steps([" " * 100_000 + "the " * 50]))
    assert len(parts) > 3
    assert parts[-1][0].truncated


def test_tokenizers_that_cannot_be_cut_are_refused() -> None:
    """No room for a text beside the special tokens; special tokens in the midst of a text; nothing at all."""
    with pytest.raises(BundleError, match="the special tokens and one more"):
        TextEncoder(JSON["bert"], 1)
    twice = byte_level()
    twice.post_processor = processors.TemplateProcessing(single="$A </s> $A", special_tokens=[("</s>", 2)])
    with pytest.raises(BundleError, match="among those of a text"):
        TextEncoder(twice.to_str().encode(), MAX_TOKENS)
    with pytest.raises(BundleError, match="gives no tokens"):
        TextEncoder(Tokenizer(models.BPE()).to_str().encode(), MAX_TOKENS)
