"""Reading a checkpoint.

files.py    a folder, a hub id or the default data package -> the checkpoint's files
choices.py  pooling, normalisation, length and prompts, each with where it was read
weights.py  safetensors -> named arrays of the BERT family
"""
