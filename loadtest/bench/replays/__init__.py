"""Recorded text streams through the whole product: without a cache, with the exact tiers alone, with everything."""
