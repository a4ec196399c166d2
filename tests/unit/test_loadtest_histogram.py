"""The histogram against exact percentiles, and its buckets and encoding against the HdrHistogram library."""

import numpy as np
import pytest

from loadtest.figures import percentile
from loadtest.histogram import HIGHEST, UNIT_S, Histogram, HistogramError

RNG = np.random.default_rng(5)


def filled(seconds: list[float]) -> Histogram:
    """A histogram of these."""
    histogram = Histogram()
    for value in seconds:
        histogram.add(value)
    return histogram


@pytest.mark.parametrize("count", [1, 7, 1000, 20_000])
def test_percentiles_are_within_the_resolution(count: int) -> None:
    """Over five decades of latencies each percentile is the nearest rank's, or at most 0.1 % and a microsecond more."""
    seconds = sorted(np.exp(RNG.uniform(np.log(1e-4), np.log(20), count)).tolist())
    histogram = filled(seconds)
    for percent in (0, 1, 50, 90, 95, 99, 99.9, 99.99, 100):
        exact = percentile(seconds, percent)
        assert exact - UNIT_S <= histogram.percentile(percent) <= exact * 1.001 + UNIT_S


def test_the_maximum_is_exact_and_bounded() -> None:
    """The longest latency is reported as it was; a day counts as an hour."""
    assert filled([0.1234567, 0.2]).max_s == 0.2
    assert filled([86_400.0]).percentile(50) == pytest.approx(3600)


def test_nothing_counted() -> None:
    """An empty histogram has no latencies."""
    assert (Histogram().count, Histogram().percentile(99), Histogram.decode(Histogram().encode()).count) == (0, 0.0, 0)


def test_a_percentile_that_needs_more_samples_is_not_plotted() -> None:
    """Of 200 requests none can show the 99.9th percentile; of 1,000 one can."""
    assert 99.9 not in dict(filled([0.01] * 200).shares_below())
    assert 99.9 in dict(filled([0.01] * 1000).shares_below())


def test_merged_is_as_if_counted_together() -> None:
    """Two runs' counts add up."""
    one, other = RNG.exponential(0.01, 500).tolist(), RNG.exponential(0.1, 500).tolist()
    together = filled(one)
    together.merge(filled(other))
    assert together.encode() == filled(one + other).encode()


def test_the_library_reads_it() -> None:
    """HdrHistogram's own library decodes the text, with the same buckets, counts and percentiles."""
    hdrh = pytest.importorskip("hdrh.histogram", reason="hdrhistogram is not installed")
    seconds = [0.0, 1e-6, 0.002047, 0.002048, 3599.0, *RNG.exponential(0.02, 3000).tolist()]
    ours, theirs = filled(seconds), hdrh.HdrHistogram(1, HIGHEST, 3)
    for value in seconds:
        theirs.record_value(round(value / UNIT_S))
    read = hdrh.HdrHistogram.decode(ours.encode())
    assert read.get_total_count() == len(seconds)
    assert read.equals(theirs)
    again = Histogram.decode(theirs.encode().decode())
    assert again.encode() == ours.encode()
    for percent in (50, 90, 99):
        assert ours.percentile(percent) / UNIT_S == pytest.approx(theirs.get_value_at_percentile(percent), rel=0.01)


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", "HJSTFAAAAAA=", "HJMTFAAAAAF4"])
def test_another_text_is_refused(text: str) -> None:
    """What is no histogram is an error of this module, not one of zlib's."""
    with pytest.raises(HistogramError):
        Histogram.decode(text)
