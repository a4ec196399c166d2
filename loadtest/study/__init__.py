"""`dejavec study`: the same texts through usual ways to run a model, through peers, and through this engine.

cli.py         the command
candidates.py  what may be measured, in which environment; --peer; peer_help.py: --list-peers
sources.py     the texts
process.py     a candidate in a process of its own, on one core
measure.py     interleaved rounds, accuracy, chunks
cached.py      the gateway with and without its cache
figures.py     what was measured, and reference figures beside it
tables.py, display.py, page.py       the same tables for terminal, page and document
backends/      scripts that run in a candidate's environment
"""
