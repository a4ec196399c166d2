"""The bars a bundle has to clear before it serves, and the verdict that `dejavec model verify` leaves beside it.

What the build measured is in `bundle.json`. A verification on the machine that serves, with the kernels that
serve, counts for more and wins: it is a file of the bundle's folder, one for each kernel class, and holds for one
graph. Whatever those files hold, some texts are computed at every start (`engine.model.check_vectors`).
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.bundle import BUNDLE_FILE, CHECK_FILE, Bundle, BundleError
from engine.model.check_vectors import ACROSS_MACHINES, Agreement

logger = logging.getLogger(__name__)

LOWEST_MEAN_COSINE = 0.999
LOWEST_COSINE = 0.995
LARGEST_LOSS_POINTS = 0.2  # against FP32, in Spearman x 100 and nDCG@10 x 100
ALLOW_VARIABLE = "DEJAVEC_ALLOW_UNVERIFIED_BUNDLE"
ALLOW_ALONE_VARIABLE = "DEJAVEC_ALLOW_BATCH_DEPENDENT_BUNDLE"


class Verification(BaseModel):
    """What `dejavec model verify` found on this machine. No `shortfalls`: the bundle may serve."""

    model_config = ConfigDict(frozen=True)

    graph_sha256: str
    kernel_class: str
    onnxruntime: str
    texts: str  # where the compared texts came from
    quality: dict[str, float]  # the names of `Bundle.quality`
    shortfalls: list[str]


def shortfalls(quality: Mapping[str, float]) -> list[str]:
    """In which ways figures named as in `Bundle.quality` are under the bar or missing; empty when they pass."""
    found = cosine_shortfalls(quality)
    dependent = quality.get("batch_dependent_texts")
    if dependent is None:
        found.append("whether vectors depend on their batch is not known")
    elif dependent:
        of = f" of {quality['batch_checked_texts']:.0f}" if "batch_checked_texts" in quality else ""
        found.append(f"{dependent:.0f}{of} texts change with what they are batched with")
    return found


def cosine_shortfalls(quality: Mapping[str, float]) -> list[str]:
    """The same for `cosine_mean` and `cosine_min` alone."""
    found = []
    for name, words, bar in (
        ("cosine_mean", "on average", LOWEST_MEAN_COSINE),
        ("cosine_min", "at worst", LOWEST_COSINE),
    ):
        cosine = quality.get(name)
        if cosine is None:
            found.append(f"cosine to FP32 {words} is not known")
        elif not cosine >= bar:  # a NaN fails
            found.append(f"cosine to FP32 is {cosine:.5f} {words}, the bar is {bar}")
    return found


def loss_shortfall(name: str, points: float, reference_points: float) -> str | None:
    """The same for a task's figure beside that of FP32; None when it is close enough or better."""
    loss = reference_points - points
    if loss <= LARGEST_LOSS_POINTS:
        return None
    return f"{name} is {points:.2f}, {loss:.2f} below FP32; the bar is {LARGEST_LOSS_POINTS}"


def served_quality(bundle: Bundle) -> dict[str, float]:
    """The figures a bundle is served with: where every text runs alone, none depends on its batch."""
    return bundle.quality | ({"batch_dependent_texts": 0.0} if bundle.batch_dependent else {})


def explain_batch_dependence(folder: Path, bundle: Bundle) -> str:
    """Why a batch-dependent bundle is not served, and what can be done."""
    changed, checked = (bundle.quality.get(f"batch_{name}_texts", 0.0) for name in ("dependent", "checked"))
    return (
        f"the bundle {folder} is batch-dependent: {changed:.0f} of {checked:.0f} texts changed with what they were"
        f" batched with. Serve it with each text run alone, which is slower, with {ALLOW_ALONE_VARIABLE}=true; or build"
        " the model from its checkpoint, with `dejavec model build`"
    )


def verification_file(folder: Path, kernel_class: str) -> Path:
    """Where the verdict for a kernel class is kept."""
    return folder / f"verified-{kernel_class}.json"


def read_verification(folder: Path, bundle: Bundle, kernel_class: str) -> Verification | None:
    """The verdict on this very graph with this kernel class, if there is one."""
    path = verification_file(folder, kernel_class)
    try:
        found = Verification.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read and is ignored: %s", path, error)
        return None
    return found if (found.graph_sha256, found.kernel_class) == (bundle.graph_sha256, kernel_class) else None


def admit(folder: Path, bundle: Bundle, kernel_class: str, agreement: Agreement, allow_unverified: bool) -> None:
    """Refuse a bundle that is under a bar on this machine, unless `allow_unverified`. Raises BundleError.

    `agreement`: of the check vectors as this machine computes them.
    """
    reasons = [_disagreement(folder, agreement), _shortfall(folder, bundle, kernel_class, agreement)]
    for reason in filter(None, reasons):
        if not allow_unverified:
            raise BundleError(f"{reason}; or serve it all the same with {ALLOW_VARIABLE}=true")
        logger.warning("%s; served because %s is set", reason, ALLOW_VARIABLE)


def _disagreement(folder: Path, agreement: Agreement) -> str:
    """Why these vectors may not share a cache with those of the machine that built the bundle; empty when they may."""
    if agreement.lowest >= ACROSS_MACHINES:  # a NaN does not pass
        return ""
    return (
        f"the bundle {folder} gives other vectors on this machine than where it was built: the lowest cosine between "
        f"them is {agreement.lowest:.5f} by its {CHECK_FILE}, the bar is {ACROSS_MACHINES}. Build it here"
    )


def _shortfall(folder: Path, bundle: Bundle, kernel_class: str, agreement: Agreement) -> str:
    """In what the bundle is under the bar, and the remedies; empty when it is not.

    FP32 is what the others are measured against, and passes.
    """
    if bundle.precision == "fp32":
        return ""
    verification = read_verification(folder, bundle, kernel_class)
    if verification is None:
        found, origin = shortfalls(served_quality(bundle)), BUNDLE_FILE
    else:
        found, origin = verification.shortfalls, verification_file(folder, kernel_class).name
    if not found:
        found = cosine_shortfalls({"cosine_mean": agreement.fp32_mean, "cosine_min": agreement.fp32_lowest})
        origin = f"{CHECK_FILE} on this machine"
    if not found:
        return ""
    return (
        f"the bundle {folder} is under the bar by its {origin}: {'; '.join(found)}. See `dejavec model verify "
        f"{folder}`; build it with --calibration-file and texts like your own, or with --precision fp32"
    )
