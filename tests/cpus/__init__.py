"""The INT8 graph on other kinds of CPU than this machine's, by user-mode emulation (QEMU).

Integer products must be exact on every kind, a text's vector must not depend on its batch, and how far the vectors of
two kinds are apart is measured. `tests/e2e/test_cpus.py` is the short form, part of `make test`; `make test-cpus` the
long one.

emulator.py   which kinds there are, and how a Python starts on one
arm64.py      an arm64 Python with its packages, in a folder
worker.py     what runs there: embeds texts alone and in batches, checks products
products.py   a graph's weights multiplied by codes, with the right answers
texts.py      words, questions and chunks
comparison.py vectors of one kind beside those of another
__main__.py   the long form and its tables
"""
