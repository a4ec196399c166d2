"""`dimensions`: the leading part of a vector, and whether the model was trained for that.

    header = check_shortening(body.dimensions, info.dimensions, info.matryoshka_dims, settings.untrained_dimensions)
    vectors = shorten(result.vectors, body.dimensions)
    headers += header  # `x-dimensions`, where the model was not trained for it

A model trained by Matryoshka representation learning (Kusupati et al. 2022) has useful vectors at each of a list of
sizes, and, as they measured, between those. Any other model's leading dimensions are a vector too, of less use. The
bundle says which sizes a model was trained for; one that says nothing is unknown, and is treated as not trained.

The HTTP header for this, `Warning`, is obsolete (RFC 9111, section 5.5), so it has a name of its own.
"""

from collections.abc import Sequence
from typing import Final, Literal

from common.asgi import Headers
from gateway.errors import BadRequest

DIMENSIONS_HEADER: Final = b"x-dimensions"
UNTRAINED: Final = b"truncated, untrained"
UNKNOWN: Final = b"truncated, training unknown"

WhenUntrained = Literal["warn", "refuse"]


def check_shortening(
    dimensions: int | None, full: int, trained: Sequence[int] | None, when_untrained: WhenUntrained = "warn"
) -> Headers:
    """The reply's headers for this `dimensions`: `x-dimensions` where the model is not known to be trained for it.

    `full` is the model's own size. A size from the smallest trained one upward is a trained one. Raises BadRequest
    naming `dimensions`: more than the model has, or, where the operator wants it so, one that is not trained.
    """
    if dimensions is None or dimensions == full:
        return []
    if dimensions > full:
        raise BadRequest(f"dimensions must be at most {full}, this model's size", param="dimensions")
    if trained and dimensions >= min(trained):
        return []
    if when_untrained == "refuse":
        raise BadRequest(_refusal(full, trained), param="dimensions")
    return [(DIMENSIONS_HEADER, UNKNOWN if trained is None else UNTRAINED)]


def _refusal(full: int, trained: Sequence[int] | None) -> str:
    if trained:
        sizes = ", ".join(str(size) for size in sorted({*trained, full}))
        return f"this model was trained for vectors of {sizes} dimensions: send at least {min(trained)}"
    known = "is not known to have been" if trained is None else "was not"
    return (
        f"this model {known} trained for fewer dimensions than its {full}: leave dimensions out, "
        'or set untrained_dimensions = "warn" on the gateway'
    )
