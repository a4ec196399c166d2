"""The one policy for all latency histograms: where their buckets end.

From 1 to 50 ms no bucket ends at more than 1.7 times the one before, so a quantile read there is off by less than that;
what is quicker or slower has coarser ones. 0.05 is the limit that the alert on the 99th percentile goes by.
"""

from typing import Final

LATENCY_BUCKETS_S: Final = (
    *(0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)  # fmt: skip
