"""Load tests and benchmarks of a gateway or engine, over HTTP."""
