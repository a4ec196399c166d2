"""The engine process: one model, its batcher, token ids in and float32 vectors out. Knows nothing of caches."""
