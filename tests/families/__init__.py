"""Golden vectors of every family: what transformers computes from tiny checkpoints with random weights.

cases.py         the checkpoints: configurations, and weights made from their tensors' names
__main__.py      runs transformers over them and writes golden/; needs requirements.txt, no test does
golden/          one file a case: config.json as written, names and shapes of tensors, token ids, vectors
"""
