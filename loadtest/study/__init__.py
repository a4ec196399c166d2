"""`dejavec study`: the same texts through usual ways to run a model, through peers, and through this engine.

candidates.py  what may be measured, in which environment; --peer
process.py     a candidate in a process of its own, on one core
measure.py     interleaved rounds, accuracy, chunks
cached.py      the gateway with and without its cache
figures.py     what was measured, and reference figures beside it
display.py, page.py
backends/      scripts that run in a candidate's environment
"""
