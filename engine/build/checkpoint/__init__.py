"""Reading a checkpoint.

files.py         a folder, a hub id or the default data package -> the checkpoint's files
hub.py           a hub id's files, in the hub's cache
choices.py       pooling, normalisation, length and prompts, each with where it was read
known_models.py  what the cards of some models have and their files have not
families.py      the supported families: names of tensors and settings, and how their layers differ
shape.py         config.json -> the numbers that decide the graph, whatever the family calls them
weights.py       safetensors -> named arrays, whatever the family calls them
dense.py         the Dense modules of sentence-transformers
"""
