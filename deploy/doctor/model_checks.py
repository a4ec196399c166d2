"""The model bundle: whole, good enough to be served, and how this CPU would compute it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.findings import Finding
from deploy.doctor.setup import SetUp, Unreadable

if TYPE_CHECKING:
    from engine.bundle import Bundle

BUILD = "`dejavec model build`"


def check_bundles(set_up: SetUp) -> Iterator[Finding]:
    """The bundles that engines here would serve; none where engines run elsewhere."""
    if set_up.engine is None:
        raise Unreadable
    bundles = [bundle for bundle, _ in set_up.own_engines]
    if not bundles:
        yield Finding("bundle", "ok", "no engine of this machine's: models are elsewhere")
    is_built = "model_bundle" not in set_up.engine.model_fields_set and len(bundles) == 1
    for bundle in bundles:
        yield from _bundle(set_up, bundle, is_built=is_built)


def _bundle(set_up: SetUp, folder: Path, *, is_built: bool) -> Iterator[Finding]:
    """One bundle. `is_built`: `dejavec up` builds it where it is missing."""
    from engine.bundle import BundleError, check_files, read_bundle

    if not folder.exists() and is_built:
        yield Finding("bundle", "note", f"{folder} does not exist yet", "`dejavec up` builds it (about a minute)")
        return
    try:
        bundle = read_bundle(folder)
        check_files(folder, bundle)
    except BundleError as error:
        yield Finding("bundle", "fault", str(error), "the engine does not start", BUILD)
        return
    what = f"{bundle.model}, {bundle.dimensions} dimensions, {bundle.precision}; all files are those it was made with"
    yield Finding("bundle", "ok", what)
    yield from _kernel(bundle)
    yield from _quality(set_up, folder, bundle)


def _kernel(bundle: "Bundle") -> Iterator[Finding]:
    """Which arithmetic would compute the vectors on this CPU."""
    kernel_class = _kernel_class(bundle)
    what = f"{kernel_class}, fingerprint {bundle.fingerprint(kernel_class)[:12]}…"
    if bundle.precision == "fp16":
        yield Finding(
            "kernel class",
            "warning",
            what,
            "fp16 is made for CUDA, and slow on a CPU",
            f"{BUILD} --precision int8, unless this machine has a GPU",
        )
        return
    try:
        from engine.model.cpu_session import integer_products
    except ImportError:
        yield Finding("kernel class", "unseen", f"{what}; onnxruntime is not installed here")
        return
    products = integer_products() if bundle.precision == "int8" else "exact"
    if products == "inexact":
        yield Finding(
            "kernel class",
            "fault",
            f"{what}; integer products are not exact on this CPU",
            "the engine does not serve an INT8 bundle here",
            f"{BUILD} --precision fp32",
        )
    else:
        yield Finding("kernel class", "ok", f"{what}; integer products are {products} on this CPU")


def _quality(set_up: SetUp, folder: Path, bundle: "Bundle") -> Iterator[Finding]:
    """What the build measured, or `dejavec model verify` on this machine, against the bar."""
    from engine.model.quality_bar import read_verification, served_quality, shortfalls

    verified = read_verification(folder, bundle, _kernel_class(bundle))
    quality = verified.quality if verified else served_quality(bundle)
    source = "verified here" if verified else "measured by the build"
    short = verified.shortfalls if verified else shortfalls(quality)
    cosine = (
        f"cosine to FP32 {quality.get('cosine_mean', 0):.5f} on average, {quality.get('cosine_min', 0):.5f} at worst"
    )
    if short:
        allowed = set_up.engine is not None and set_up.engine.allow_unverified_bundle
        yield Finding(
            "quality",
            "warning" if allowed else "fault",
            "; ".join(short),
            "it is served because allow_unverified_bundle is set" if allowed else "the engine does not serve it",
            f"`dejavec model verify {folder}` shows more; build it with your own texts (--calibration-file)",
        )
    else:
        yield Finding("quality", "ok", f"{cosine} ({source})")
    if bundle.batch_dependent and set_up.engine and not set_up.engine.allow_batch_dependent_bundle:
        yield Finding(
            "quality",
            "fault",
            "vectors change with what they are batched with",
            "the engine does not serve it",
            "allow_batch_dependent_bundle = true, which runs each text alone",
        )


def _kernel_class(bundle: "Bundle") -> str:
    """As `engine.model.device` names it on a CPU."""
    return {"int8": "int8-exact", "fp16": "fp16-cpu"}.get(bundle.precision, bundle.precision)
