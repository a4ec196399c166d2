"""Streams made to deceive: easy paraphrases that loosen a threshold, then look-alikes that mean something else.

Texts come from templates, so nothing of any data set is in them. Each base text gets an easy variant (politeness,
punctuation) and a tricky one of each kind.
"""

from collections.abc import Callable

import numpy as np

VERBS = ("turn on", "turn off", "enable", "disable", "open", "close", "start", "stop", "show", "hide")
OPPOSITE = {"turn on": "turn off", "enable": "disable", "open": "close", "start": "stop", "show": "hide"}
OPPOSITE |= {value: key for key, value in OPPOSITE.items()}
THINGS = (
    "the heating", "the kitchen lights", "push notifications", "two factor login", "the backup job", "the web server",
    "dark mode", "the garage door", "automatic updates", "the water pump", "the printer queue", "location sharing",
    "the firewall rule", "the night shift schedule", "the export task", "the loyalty programme",
)  # fmt: skip
PLACES = (
    "in the office", "on the second floor", "for all users", "for the Berlin team", "on my phone", "in the test system",
    "for order number {n}", "at {n} minutes past noon", "in build {n}", "for customer {n}",
)  # fmt: skip
GREETINGS = (
    "",
    "hi,",
    "hello,",
    "hi there,",
    "good morning,",
    "hey,",
    "dear team,",
    "hello team,",
    "ok,",
    "so,",
    "well,",
)
ENDINGS = ("", "thank you", "many thanks", "thx", "cheers", "asap", "if possible", "today", "!", "please and thank you")
POLITE = ("{}", "please {}", "{} please", "{}.", "can you {}", "{} now", "could you {}?", "{} thanks")


def said(verb: str, thing: str, place: str, number: int) -> str:
    """The text itself."""
    return f"{verb} {thing} {place.format(n=number)}"


def easy(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """The same request in other words."""
    return str(draw.choice(POLITE)).format(said(verb, thing, place, number))


def friendly(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """The same request in many more words that matter little."""
    text = easy(draw, verb, thing, place, number)
    return f"{draw.choice(GREETINGS)} {text} {draw.choice(ENDINGS)}".strip()


def opposite(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """Turn on against turn off."""
    return easy(draw, OPPOSITE[verb], thing, place, number)


def without(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """With against without."""
    ending = str(draw.choice(("with a reminder", "without a reminder")))
    return f"{easy(draw, verb, thing, place, number)} {ending}"


def other_number(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """Another id, the rest the same."""
    return easy(draw, verb, thing, str(draw.choice(PLACES[-4:])), int(draw.integers(100, 9999)))


def swapped(draw: np.random.Generator, verb: str, thing: str, place: str, number: int) -> str:
    """The same words in another order."""
    words = said(verb, thing, place, number).split()
    a, b = draw.choice(len(words), 2, replace=False)
    words[a], words[b] = words[b], words[a]
    return " ".join(words)


TRICKS: dict[str, Callable[[np.random.Generator, str, str, str, int], str]] = {
    "opposites": opposite,
    "with and without": without,
    "numbers": other_number,
    "word order": swapped,
}


def attack_texts(trick: str, seed: int, honest: int = 1500, hostile: int = 1500) -> list[str]:
    """Easy paraphrases of some bases first, then tricky variants of the same bases."""
    draw = np.random.default_rng(seed)
    verbs = draw.permutation(VERBS)
    bases = [(str(verbs[i % len(verbs)]), thing, PLACES[i % 6], 1000 + 37 * i) for i, thing in enumerate(THINGS)]
    first = [friendly(draw, *bases[int(draw.integers(len(bases)))]) for _ in range(honest)]
    second = [TRICKS[trick](draw, *bases[int(draw.integers(len(bases)))]) for _ in range(hostile)]
    return first + second
