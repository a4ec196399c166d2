"""Calibration texts: read from a file of any size and split for measuring.

Reading keeps a bounded sample, drawn with a fixed seed, so that the same file always gives the same bundle.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import text_lines
from engine.build.errors import CalibrationError
from engine.bundle import sha256_of

DEFAULT_FILE = Path(__file__).with_name("calibration.txt")
DEFAULT_HOLD_OUT = Path(__file__).with_name("hold_out.txt")  # ordinary texts that measure, and never calibrate
SAMPLE_SIZE = 400  # peaks settle well before
HOLD_OUT_EVERY = 4  # every fourth text measures the finished graph instead of calibrating it
MAX_SINGLE_WORDS = 600
WORD = re.compile(r"\w+")
FEWEST_TO_SPLIT = 16  # with fewer texts the same ones do both


@dataclass(frozen=True, slots=True)
class CalibrationTexts:
    """A sample of a calibration file. `n_skipped` lines were empty or broken."""

    sha256: str
    calibrate: tuple[str, ...]
    hold_out: tuple[str, ...]
    n_lines: int
    n_skipped: int


def read_texts(path: Path | None, sample_size: int = SAMPLE_SIZE) -> CalibrationTexts:
    """Texts of a file with one a line, or JSON Lines with "text" (`.jsonl`, `.ndjson`); None: the built-in file.

    Raises CalibrationError when the file cannot be read or holds no text at all.
    """
    if path is None:
        texts = read_texts(DEFAULT_FILE, sample_size)
        return replace(texts, hold_out=texts.hold_out + built_in_hold_out())
    sample: list[str] = []
    draw = random.Random(0)  # noqa: S311  # a reproducible sample, no secret
    n_lines = n_texts = 0
    for text in _lines(path):
        n_lines += 1
        if text is None:
            continue
        n_texts += 1
        if len(sample) < sample_size:
            sample.append(text)
        elif (place := draw.randrange(n_texts)) < sample_size:
            sample[place] = text
    if not sample:
        raise CalibrationError(f"{path} holds no text: {n_lines} lines, all empty or broken")
    return _split(sample, sha256_of(path), n_lines, n_lines - n_texts)


def _split(sample: list[str], sha256: str, n_lines: int, n_skipped: int) -> CalibrationTexts:
    if len(sample) < FEWEST_TO_SPLIT:
        return CalibrationTexts(sha256, tuple(sample), tuple(sample), n_lines, n_skipped)
    hold_out = tuple(sample[::HOLD_OUT_EVERY])
    calibrate = tuple(text for index, text in enumerate(sample) if index % HOLD_OUT_EVERY)
    return CalibrationTexts(sha256, calibrate, hold_out, n_lines, n_skipped)


def _lines(path: Path) -> Iterator[str | None]:
    """Each line's text; None for an empty or broken one."""
    try:
        for line in text_lines.read_texts(path):
            yield line.text.strip() or None
    except OSError as error:
        raise CalibrationError(f"the calibration file cannot be read: {error}") from None


def built_in_hold_out() -> tuple[str, ...]:
    """Ordinary texts of all lengths, single words among them, that never calibrate."""
    return tuple(text for text in _lines(DEFAULT_HOLD_OUT) if text)


def with_single_words(texts: Sequence[str], most: int = MAX_SINGLE_WORDS) -> list[str]:
    """`texts`, and words of theirs as texts of their own.

    In a text of one word two of three tokens are the special ones around it, with larger activations than other
    tokens have: rounding that has seen them keeps very short texts closer to FP32.
    """
    words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
    drawn = random.Random(0).sample(list(words), min(most, len(words)))  # noqa: S311  # reproducible, no secret
    return [*texts, *drawn]
