"""Benchmarks that print ratios, measured side by side in one run: `python -m loadtest.bench --help`."""
