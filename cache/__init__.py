"""The cache tiers: keys, L0, Redis strings, and the semantic tier in a package of its own."""
