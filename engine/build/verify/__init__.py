"""`dejavec model verify`: a bundle measured on this machine.

bundle_verifier.py  the order of the measurements, and the verdict
embedding.py  texts -> vectors, in the engine's batches    tables.py  data files: pairs, corpora
reference.py  the FP32 graph to compare with               tasks.py   STS and retrieval
quality.py    cosine to FP32, batch-independence           speed.py   tokens/s, memory
report.py     the report on a terminal and as JSON
"""
