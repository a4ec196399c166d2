"""An exported ONNX graph -> bundle, for models that have no graph of their own here.

importer.py  the order of it all; what the command calls
source.py    finding and reading the files: the graph, its external data, the folder's choices
contract.py  what a graph must be: operators, weights, inputs, outputs
rewrite.py   the engine's inputs, pooling and normalisation around the graph; its products as linear layers
products.py  which products have constant weights, and how each is quantised
original.py  the graph as it came, to compare with

    import_bundle(Path("model/onnx/model.onnx"), Path("bundle"))
"""
