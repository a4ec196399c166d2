"""Replays text streams through the product's own semantic tier, with the engine's true vectors."""
