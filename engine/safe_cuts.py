"""Where a long text may be cut without changing a token before the cut.

    cuts = safe_cuts(tokenizer)
    at = cuts.before(text, 2048)     # tokens of text[:at] are the first tokens of text; 0 where no such place is known

A tokenizer splits a text at its added tokens, normalizes the pieces, splits those into words, and makes the tokens of
each word by itself. So a place is safe where no added token, no step of the normalizer and no word can reach across,
and where what stands before it does not end in white space, which several steps treat by what follows. Two kinds are
known, from what the tokenizer consists of:

- before a space that follows a plain letter or digit, where words end at spaces: all of WORD_SPLITTERS do that, and
  NORMALIZERS change such a letter, and what is before it, without regard to what follows;
- with BERT's own normalizer and words, also before any space, an isolated punctuation mark or an ideograph. That
  normalizer works letter by letter, but for the order of combining marks, and none of these combines.

Any other tokenizer has no safe place, nor has a text without one: those are tokenized whole.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer

TRIES: Final = 64  # spaces looked at, from the right
LOOK_BACK: Final = 256  # characters looked at for another mark

WORD_SPLITTERS: Final = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Metaspace", "ByteLevel"})
REFINERS: Final = frozenset({"Digits", "Punctuation"})  # split more, by each character's own kind
NORMALIZERS: Final = frozenset(
    {"BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Strip"}
)
MODELS: Final = frozenset({"WordPiece", "WordLevel", "BPE", "Unigram"})
METASPACE: Final = "\u2581"

# Letters of which each is a grapheme of its own after another one or a space, in every version of Unicode: a
# precompiled normalizer (sentencepiece's) works by graphemes.
PLAIN_RANGES: Final = (
    ("a", "z"), ("A", "Z"), ("0", "9"), ("\u00c0", "\u024f"), ("\u0391", "\u03a9"), ("\u03b1", "\u03c9"),
    ("\u0410", "\u044f"), ("\u05d0", "\u05ea"), ("\u0621", "\u063a"), ("\u0641", "\u064a"), ("\u3041", "\u3096"),
    ("\u30a1", "\u30fa"), ("\u4e00", "\u9fa5"), ("\uac00", "\ud7a3"),
)  # fmt: skip
IDEOGRAPHS: Final = ("\u4e00", "\u9fa5")
# Isolated by BERT's words, no part of a regular expression's \w, and of no combining kind.
ISOLATED: Final = frozenset(".,;:!?()[]{}\"'#$%&*+-/<=>@\\^`|~\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u3001\u3002")


@dataclass(frozen=True, slots=True)
class SafeCuts:
    """The safe places of one tokenizer's texts: none, those at `spaces`, and for BERT those before `marks` as well."""

    normalizer: Any  # the tokenizer's, or None
    spaces: bool = False
    marks: frozenset[str] = frozenset()
    ideographs: bool = False

    def before(self, text: str, limit: int) -> int:
        """The last safe place of the right half of text[:limit + 1] that is soon found; 0 for none."""
        lowest = max(limit // 2, 2)
        if not self.spaces:
            return 0
        if self.marks:
            return self._before_mark(text, limit, lowest)
        at = limit + 1
        for _ in range(TRIES):
            at = text.rfind(" ", lowest, at)
            if at < 0:
                return 0
            if (
                _is_plain(text[at - 1])
                and (text[at - 2] == " " or _is_plain(text[at - 2]))
                and self._stays(text[at - 1])
            ):
                return at
        return 0

    def _before_mark(self, text: str, limit: int, lowest: int) -> int:
        for at in range(min(limit, len(text) - 1), max(lowest, limit - LOOK_BACK), -1):
            mark = text[at]
            if mark == " " or mark in self.marks or (self.ideographs and IDEOGRAPHS[0] <= mark <= IDEOGRAPHS[1]):
                return at
        return max(text.rfind(" ", lowest, limit + 1), 0)

    def _stays(self, letter: str) -> bool:
        """Whether the normalizer makes of this letter something that does not end in white space."""
        made = letter if self.normalizer is None else self.normalizer.normalize_str(letter)
        return bool(made) and not made[-1].isspace() and made[-1] != METASPACE


def safe_cuts(tokenizer: Tokenizer) -> SafeCuts:
    """The safe places of this tokenizer's texts, from what it consists of."""
    none = SafeCuts(None)
    normalizers = _parts(tokenizer.normalizer, "normalizers")
    splitters = _parts(tokenizer.pre_tokenizer, "pretokenizers")
    kinds = [part["type"] for part in splitters]
    if not all(map(_is_known_normalizer, normalizers)) or not all(map(_is_known_splitter, splitters)):
        return none
    if not WORD_SPLITTERS.intersection(kinds) or not _is_known_model(tokenizer.model):
        return none
    added = tokenizer.get_added_tokens_decoder().values()
    letters = frozenset("".join(token.content + _normalized(tokenizer, token.content) for token in added))
    if any(letter.isspace() or letter == METASPACE for letter in letters):
        return none
    if kinds != ["BertPreTokenizer"] or [part["type"] for part in normalizers] != ["BertNormalizer"]:
        return SafeCuts(tokenizer.normalizer, spaces=True)
    return SafeCuts(
        tokenizer.normalizer,
        spaces=True,
        marks=ISOLATED - letters,
        ideographs=normalizers[0]["handle_chinese_chars"]
        and not any(token.single_word for token in added)
        and not any(IDEOGRAPHS[0] <= letter <= IDEOGRAPHS[1] for letter in letters),
    )


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    return text if tokenizer.normalizer is None else str(tokenizer.normalizer.normalize_str(text))


def _is_plain(letter: str) -> bool:
    return any(first <= letter <= last for first, last in PLAIN_RANGES)


def _parts(component: Any, name: str) -> list[dict[str, Any]]:
    """What a normalizer or pre-tokenizer consists of, each with its `type`; a sequence's parts in order."""
    if component is None:
        return []
    found = [json.loads(component.__getstate__())]
    while any(part["type"] == "Sequence" for part in found):
        found = [inner for part in found for inner in (part[name] if part["type"] == "Sequence" else [part])]
    return found


def _is_known_normalizer(part: dict[str, Any]) -> bool:
    if part["type"] == "Replace":  # as sentencepiece's checkpoints have it: several spaces become one
        return part["pattern"] == {"Regex": " {2,}"} and part["content"] in {" ", METASPACE}
    return part["type"] in NORMALIZERS


def _is_known_splitter(part: dict[str, Any]) -> bool:
    if part["type"] == "Metaspace":
        return bool(part["replacement"] == METASPACE and part.get("split", True))
    if part["type"] == "ByteLevel":
        return bool(part.get("use_regex", True))
    return part["type"] in WORD_SPLITTERS or part["type"] in REFINERS


def _is_known_model(model: Any) -> bool:
    return type(model).__name__ in MODELS and not getattr(model, "dropout", None)
