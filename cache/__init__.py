"""The cache tiers: keys, L0, Redis strings, the semantic index and its decisions. Knows nothing of HTTP or models."""
