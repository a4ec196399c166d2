"""Prometheus' text form: what is read of it, and that our own metrics are read whole."""

import math

from prometheus_client.parser import text_string_to_metric_families

from common.prometheus_text import parse
from gateway.metrics import exposition

TEXT = """\
# HELP a_total Things
# TYPE a_total counter
a_total{tier="local",x="a\\"b\\\\c\\nd} e{"} 3
a_total{tier="local",x="\x1e\u2028"} 4
a_total{tier="miss"} 4.5e1
b NaN
c +Inf
d 7 1732586400
e{broken 1
not a sample
not_a_number abc
"""


def test_samples_are_read_by_name_and_labels() -> None:
    """Numbers with their labels; escapes are undone; what is no finite number or no sample is passed over."""
    samples = parse(TEXT)
    assert samples.total("a_total", x='a"b\\c\nd} e{') == 3
    assert samples.total("a_total", x="\x1e\u2028") == 4
    assert samples.total("a_total", tier="local") == 7
    assert samples.total("a_total") == 52
    assert samples.total("a_total", tier="none") is None
    assert samples.by("a_total", "tier") == {"local": 7, "miss": 45}
    assert samples.total("d") == 7
    assert set(samples.by_name) == {"a_total", "d"}


def test_our_own_metrics_are_read_as_by_prometheus_client() -> None:
    """Every finite sample of the gateway's, with the labels and the number that its library's own reader finds."""
    text = exposition()[0].decode()
    expected = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if math.isfinite(sample.value)
    ]
    found = [(name, labels, value) for name, held in parse(text).by_name.items() for labels, value in held]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    assert len(found) > 100


def test_a_hostile_line_takes_no_long_time() -> None:
    """A megabyte of quotes, braces or blanks is passed over in one go; a reader that tried all ways would not end."""
    for piece in ('"', "{", '{a="', " ", '\\"', "1 "):
        assert parse("a{" + piece * 300_000 + "\na" + piece * 300_000 + "x\nb 1").total("b") == 1
