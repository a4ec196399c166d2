"""Token ids of texts, cut at the model's limit, without tokenizing what is cut away.

    encoder = TextEncoder(tokenizer_json, max_tokens=256)
    encoder.encode(["a text"])                    # at once
    for part in encoder.steps(texts): ...         # in steps of bounded length, between which it may be ended

Of a long text only a beginning is tokenized, up to a safe place (`engine.safe_cuts`). Where that has more tokens than
the model takes, its first ones are those of the whole text, and the text is truncated; otherwise a longer beginning is
tried, in the end the whole. Ids, number of tokens and whether the text is truncated are those of tokenizing the whole.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

from engine.bundle import BundleError, parse_tokenizer
from engine.safe_cuts import SafeCuts, safe_cuts

logger = logging.getLogger(__name__)

STEP_CHARS: Final = 16_384  # tokenized in one step, 5 ms of English; more where one text cannot be cut
CHARS_PER_TOKEN: Final = 8  # English has 4 to 5
MIN_CHARS: Final = 512
GROWTH: Final = 4
PROBES: Final = ("a", "0", ".", "the")
CHECKED: Final = (
    "one Word, ",
    "two",
    " ",
    "\u00e9t\u00e9 ",
    "\u96fb\u8eca",
    "\u0440\u0443\u0441 ",
    "\u3002",
    "  ",
    "x-1 ",
    "\t",
)


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One text as the model's input: `input_ids` are little-endian int32 bytes, special tokens included."""

    input_ids: bytes
    tokens: int
    truncated: bool


class TextEncoder:
    """A model's tokenizer; safe to use from several threads. `first_chars`: what of a long text is tried first."""

    def __init__(self, content: bytes, max_tokens: int, first_chars: int | None = None) -> None:
        """Raises BundleError when the content is not a tokenizer, or adds more special tokens than the model takes."""
        self._tokenizer = parse_tokenizer(content, max_tokens)
        self._tokenizer.no_truncation()
        self._after = _special_after(self._tokenizer)
        self._max_tokens = max_tokens
        self._first_chars = first_chars or max(MIN_CHARS, CHARS_PER_TOKEN * max_tokens)
        self._cuts = safe_cuts(self._tokenizer)
        if not self._cuts_are_safe():
            logger.warning("this tokenizer does not cut as its parts say: long texts are tokenized whole")
            self._cuts = SafeCuts(None)

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """All of these texts, in order."""
        if len(max(texts, key=len, default="")) <= self._first_chars:
            return [self._cut(ids) for ids in self._ids(texts)]
        return [one for part in self.steps(texts) for one in part]

    def steps(self, texts: Iterable[str]) -> Iterator[list[EncodedText]]:
        """The same, some texts at a time; a step may be empty. Each has about STEP_CHARS characters, or one text."""
        for batch in self._batches(texts):
            heads = [self._head(text, self._first_chars) for text in batch]
            encoded = []
            for text, head, known in zip(batch, heads, self._ids(heads), strict=True):
                beginning, ids = head, known
                while len(ids) <= self._max_tokens and len(beginning) < len(text):
                    yield []
                    beginning = self._head(text, GROWTH * len(beginning))
                    (ids,) = self._ids([beginning])
                encoded.append(self._cut(ids))
            yield encoded

    def _batches(self, texts: Iterable[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        chars = 0
        for text in texts:
            if batch and chars + min(len(text), self._first_chars) > STEP_CHARS:
                yield batch
                batch, chars = [], 0
            batch.append(text)
            chars += min(len(text), self._first_chars)
        if batch:
            yield batch

    def _head(self, text: str, limit: int) -> str:
        """The beginning of a text up to a safe place near `limit`, or beyond where there is none; else all of it."""
        while limit < len(text):
            if at := self._cuts.before(text, limit):
                return text[:at]
            limit *= GROWTH
        return text

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _cut(self, ids: list[int]) -> EncodedText:
        truncated = len(ids) > self._max_tokens
        if truncated:
            ids = ids[: self._max_tokens - len(self._after)] + self._after
        return EncodedText(array("i", ids).tobytes(), len(ids), truncated)

    def _cuts_are_safe(self) -> bool:
        """Compare the tokens before each safe place of some text with the first ones of the whole."""
        text = "".join(CHECKED[number * number % 11 % len(CHECKED)] for number in range(48))
        whole = self._content(text)
        places = {self._cuts.before(text, limit) for limit in range(4, len(text), 3)}
        return all((part := self._content(text[:at])) == whole[: len(part)] for at in places)

    def _content(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _special_after(tokenizer: Tokenizer) -> list[int]:
    """The special tokens put behind a text's own. Raises BundleError where some are put among them."""
    for probe in PROBES:
        content = tokenizer.encode(probe, add_special_tokens=False).ids
        whole = tokenizer.encode(probe)
        added = len(whole.ids) - len(content)
        if not content:
            continue
        before = whole.special_tokens_mask.index(0)
        if whole.ids[before : before + len(content)] == content and added == tokenizer.num_special_tokens_to_add(False):
            after: list[int] = whole.ids[before + len(content) :]
            return after
    raise BundleError("this tokenizer.json gives no tokens, or puts special tokens among those of a text")
