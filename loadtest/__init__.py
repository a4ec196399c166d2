"""Load tests and benchmarks. They speak HTTP only."""
