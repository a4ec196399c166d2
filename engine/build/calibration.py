"""Calibration texts: read from a file of any size, in any format of `common.texts`, and split for measuring.

Reading keeps a bounded sample, drawn with a fixed seed, so that the same file always gives the same bundle.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.texts import STANDARD_INPUT, Record, Tally, TextFile, form_of
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
    """A sample of a calibration file, and what became of its lines, in words and by reason."""

    sha256: str
    calibrate: tuple[str, ...]
    hold_out: tuple[str, ...]
    lines: Tally


def read_texts(path: Path | None, sample_size: int = SAMPLE_SIZE) -> CalibrationTexts:
    """Texts of a file, in the field or column "text" where it has those; `-`: standard input; None: the built-in file.

    Raises CalibrationError when the file cannot be read or holds no text at all.
    """
    if path is None:
        texts = read_texts(DEFAULT_FILE, sample_size)
        return replace(texts, hold_out=texts.hold_out + built_in_hold_out())
    sample: list[str] = []
    draw = random.Random(0)  # noqa: S311  # a reproducible sample, no secret
    tally = Tally()
    try:
        with TextFile(path, form_of(path)) as file:
            for row in file.rows():
                tally.add(row)
                if not isinstance(row, Record):
                    continue
                if len(sample) < sample_size:
                    sample.append(row.text.strip())
                elif (place := draw.randrange(tally.used)) < sample_size:
                    sample[place] = row.text.strip()
            sha256 = file.position.sha256 if path == STANDARD_INPUT else sha256_of(path)
    except OSError as error:
        raise CalibrationError(f"the calibration file cannot be read: {error}") from None
    if not sample:
        raise CalibrationError(f"{path} holds no text: {tally}")
    return _split(sample, sha256, tally)


def _split(sample: list[str], sha256: str, lines: Tally) -> CalibrationTexts:
    if len(sample) < FEWEST_TO_SPLIT:
        return CalibrationTexts(sha256, tuple(sample), tuple(sample), lines)
    hold_out = tuple(sample[::HOLD_OUT_EVERY])
    calibrate = tuple(text for index, text in enumerate(sample) if index % HOLD_OUT_EVERY)
    return CalibrationTexts(sha256, calibrate, hold_out, lines)


def built_in_hold_out() -> tuple[str, ...]:
    """Ordinary texts of all lengths, single words among them, that never calibrate."""
    with TextFile(DEFAULT_HOLD_OUT, form_of(DEFAULT_HOLD_OUT)) as file:
        return tuple(row.text for row in file.rows() if isinstance(row, Record))


def with_single_words(texts: Sequence[str], most: int = MAX_SINGLE_WORDS) -> list[str]:
    """`texts`, and words of theirs as texts of their own.

    In a text of one word two of three tokens are the special ones around it, with larger activations than other
    tokens have: rounding that has seen them keeps very short texts closer to FP32.
    """
    words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
    drawn = random.Random(0).sample(list(words), min(most, len(words)))  # noqa: S311  # reproducible, no secret
    return [*texts, *drawn]
