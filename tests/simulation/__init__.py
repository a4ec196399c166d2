"""Replays text streams through the semantic tier's real decision code, with the engine's true vectors."""
