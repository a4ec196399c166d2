"""The gateway process: HTTP in front, the cache tiers in between, the engine behind."""
