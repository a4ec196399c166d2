"""Load tests and benchmarks. Speaks HTTP and arithmetic; knows nothing of the product's insides."""
