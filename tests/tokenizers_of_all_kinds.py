"""Small tokenizers of each kind that checkpoints bring, for tests of what is common to all."""

import base64
import string
import zlib
from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

# A precompiled normalizer of sentencepiece 0.2.3 for these rules: full-width A and B to A and B; U+3000, U+00A0, tab
# and newline to a space; U+200B and U+00AD to nothing; e with an accent apart and whole, each to the other; o with
# dots to "o "; U+0600 to "x" and U+0601 to a space; a circled 1 to 1; the ligature fi to two letters.
PRECOMPILED = zlib.decompress(
    base64.b85decode(
        "c-kG)d9aRE7y$6+`(lh{%rH&=DQ1eUeN0hEMV4%3Ns_JX%ZTi|?@}lsTw5uZglowfmEA2gbCt0~*~6q6lr1IU_j>33&GVf1IrGe!^PUrhBBF"
        "Fe(V`I#7LG_oWC|i3*~KCrmgkm;$dh|At3=Z>#d(N~ady>+$=xDy<qss^N~R;zA;K_|^w`)pVxhj?Oc54I9?`5MrFb-Hd@-FYAs%Dp{&bWPA"
        "Lj|mQjRPtP@YOuqzaX>gqUv4Pl{Wz(os!(il?bg4W6MEHL1<BJkN8~;RRl#F7>HLLmJSCmuNy`n$eV3c$pS7rxh(}&8xKGHQMqz?RW#*6Yc3"
        "lN8aL1y3iTh8C~f?cY4v2KJ=z<GAAb;{lvF<hyDy?0D~FCP=+v^VT@!1qZ!3m#*m%-1I9Cs_js3yOyGScF_{mT!iP*_>ixZs_=uUzU=}&dVK"
        "(!a%O`xyr_5&opRtf!K4%eMu$ZMRA&+IOU^%OjbHZxAWG!o0&pN(h1Dn{$H+;=zzGZ82PT0;icCv$fcJV#mv4`FKz}}>`Ar<+{Qn627z)$?h"
        "(P63BFCOFohdIO%e&&~C4#)VF6CCFhCpp7u&hi`QImhq(nVX6~#0yC+D-~x?r{a?QVp8KWSNMx-T;&GWxyj%B%Rl_bE&k^=cexYy?|)U7pl)"
        "<4$d2y4qF-spB|k6j0gMft1p"
    )
)  # fmt: skip

SENTENCES = [
    "the quick brown fox jumps over the lazy dog, again and again: it's what they're for!",
    "How do I reset my password? You can't; we'll do it (in 3 to 5 days).",
    "naïve café déjà vu Füße straße ΑΒΓ αβγ привет мир שלום עולם مرحبا",
    "電車は東京から大阪まで。 今日は良い天気です、 ね 한국어 텍스트 입니다",
    "xylem, xylene and a xylophone: xylitol, xylograph",
    "x = [1, 2, 3]; y == {4: 'five'} # <mask> and [MASK] 100% of $20.50",
]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def word_piece(
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    clean_text: bool = True,
    chinese: bool = True,
    single_word: bool = False,
) -> Tokenizer:
    """BERT's, with pieces of single letters and of a few words."""
    foreign = "éaüßαβприветשלום電車東京大阪天気한국어。、“”…😀"  # noqa: RUF001  # each its own letter, on purpose
    letters = string.ascii_letters + string.digits + string.punctuation + foreign
    pieces = [*letters, *(f"##{letter}" for letter in letters), "the", "qui", "##ck", "again", "password", "##ing"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(["[UNK]", "[CLS]", "[SEP]", *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=clean_text, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("quick", single_word=single_word, normalized=False), "brown"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def byte_level(*, add_prefix_space: bool = False) -> Tokenizer:
    """RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram(normalizer: normalizers.Normalizer, splitter: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """XLM-R's, with this normalizer and these words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _one_space(content: str = " ") -> normalizers.Normalizer:
    return normalizers.Replace(Regex(" {2,}"), content)


def _xlm_r() -> Tokenizer:
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return unigram(normalizers.Sequence([normalizers.Precompiled(PRECOMPILED), _one_space()]), words)


def _xlm_r_as_converted_today() -> Tokenizer:
    steps = [normalizers.Precompiled(PRECOMPILED), normalizers.Strip(left=False, right=True), _one_space("\u2581")]
    return unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace())


def _xlm_r_with_metaspace_alone() -> Tokenizer:
    return unigram(
        normalizers.Sequence([normalizers.Precompiled(PRECOMPILED), _one_space()]), pre_tokenizers.Metaspace()
    )


def _nfkc() -> Tokenizer:
    return unigram(normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme="first"))


def _nfc_words() -> Tokenizer:
    tokenizer = word_piece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Whitespace()])
    return tokenizer


CUT_AT_SPACES: dict[str, Callable[[], Tokenizer]] = {
    "bert": word_piece,
    "bert, cased": lambda: word_piece(lowercase=False, strip_accents=False),
    "bert, accents apart": lambda: word_piece(strip_accents=False, clean_text=False),
    "bert, no ideographs": lambda: word_piece(chinese=False),
    "bert, an added token that is no part of a word": lambda: word_piece(single_word=True),
    "roberta": byte_level,
    "roberta, prefix space": lambda: byte_level(add_prefix_space=True),
    "xlm-r": _xlm_r,
    "xlm-r, as converted today": _xlm_r_as_converted_today,
    "xlm-r, metaspace alone": _xlm_r_with_metaspace_alone,
    "nfkc": _nfkc,
    "nfc, words": _nfc_words,
}


def _whole(change: Callable[[Tokenizer], object]) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = byte_level()
        change(tokenizer)
        return tokenizer

    return make


def _set(tokenizer: Tokenizer, **parts: object) -> None:
    for name, part in parts.items():
        setattr(tokenizer, name, part)


TOKENIZED_WHOLE: dict[str, Callable[[], Tokenizer]] = {
    "no words": _whole(lambda one: _set(one, pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False))),
    "words by a pattern": _whole(
        lambda one: _set(one, pre_tokenizer=pre_tokenizers.Split(Regex("brown.fox"), "isolated"))
    ),
    "spaces replaced": _whole(lambda one: _set(one, normalizer=normalizers.Replace(" ", "\u2581"))),
    "a prefix": _whole(lambda one: _set(one, normalizer=normalizers.Prepend("\u2581"))),
    "added tokens with a space": _whole(lambda one: one.add_tokens(["brown fox"])),
    "metaspace without words": lambda: unigram(normalizers.NFKC(), pre_tokenizers.Metaspace(split=False)),
}
