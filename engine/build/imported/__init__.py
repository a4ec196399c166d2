"""An exported ONNX graph -> bundle, for models that have no graph of their own here.

importer.py  the order of it all; what the command calls
optimum.py   a checkpoint's graph by Optimum, in a process of its own
source.py    finding and reading the files: the graph, its external data, the folder's choices
contract.py  what a graph must be: operators, weights, inputs, outputs
exported.py  the graph made ready to be built on: what is not needed is gone
plan.py      what the import will do, before the graph is rewritten
rewrite.py   the engine's inputs, pooling and normalisation around the graph; its products as linear layers
products.py  which products have constant weights, and how each is quantised; quantize.py: the INT8 graph
original.py  the graph as it came, to compare with

    import_bundle(Path("model/onnx/model.onnx"), Path("bundle"))
"""
