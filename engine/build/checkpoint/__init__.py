"""Reading a checkpoint.

files.py    a folder, a hub id or the default data package -> the checkpoint's files
choices.py  pooling, normalisation, length and prompts, each with where it was read
families.py the supported families: names of tensors and settings, and how their layers differ
shape.py    config.json -> the numbers that decide the graph, whatever the family calls them
weights.py  safetensors -> named arrays, whatever the family calls them
"""
