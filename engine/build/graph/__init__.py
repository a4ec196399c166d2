"""Writing a model's graph: FP32, INT8 or FP16.

step.py        the bundle's graph in the precision asked for; what the builder calls
bert_graph.py  arrays -> ONNX graph             onnx_writer.py   nodes, constants, bytes
linears.py     FP32 and INT8 products           half.py          FP32 -> FP16, for GPUs
quantize.py    FP32 -> INT8                     activations.py   what calibration texts show of each input
rounding.py    weights to int8: GPTQ, exact     kernel_check.py  writes the graph that checks exact products
"""
