"""`dejavec cache simulate`: a log of texts replayed through the semantic tier, with the running engine's vectors.

record.py   texts to token ids and vectors, by the engine
report.py   the replays, as a table and as JSON
cli.py      options, and what goes wrong
"""
