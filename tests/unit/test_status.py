"""`dejavec status`: what it reads out of a gateway's answers."""

from deploy.status import Status, rows

MODEL = {"model": "m", "dimensions": 8, "max_tokens": 16, "kernel_class": "fp32", "device": "cpu"}


def test_shares_are_of_all_texts_since_the_start() -> None:
    """Of none there are no shares."""
    of = {"url": "http://x", "version": "1", "is_ready": True, "reason": "", "redis": "ok"}
    shown = dict(rows(Status(**of, texts={"local": 6, "miss": 2})))  # type: ignore[arg-type]
    assert shown["texts"] == "8 since the start: L0 75%, exact 0%, semantic 0%, computed 25%"
    assert dict(rows(Status(**of)))["texts"] == "none since the start"  # type: ignore[arg-type]


def test_every_model_has_its_rows() -> None:
    """A gateway of several models shows each with its fingerprint."""
    models = [{**MODEL, "fingerprint": letter * 32} for letter in "ab"]
    shown = list(
        rows(Status("http://x", "1", is_ready=False, reason="the engine is away", redis="none", models=models))
    )
    assert [value.split("fingerprint ")[1] for name, value in shown if name == "computed"] == [
        "a" * 12 + "…",
        "b" * 12 + "…",
    ]
    assert ("not ready", "the engine is away") in shown
    assert ("look at", "http://x/console  /docs  /metrics  /ready") in shown
