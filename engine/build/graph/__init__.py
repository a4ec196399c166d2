"""Writing a model's graph: FP32, INT8 or FP16.

step.py           the bundle's graph in the precision asked for; what the builder calls
encoder_graph.py  arrays -> ONNX graph, any family   onnx_writer.py   nodes, constants, bytes
attention.py      heads, masks, tiles of long texts  half.py          FP32 -> FP16, for GPUs
positions.py      tables: rotary, relative           activations.py   what calibration texts show of each input
head.py           pooling, Dense, normalisation      kernel_check.py  writes the graph that checks exact products
linears.py        FP32 and INT8 products             inputs.py        the graph's inputs
quantize.py       FP32 -> INT8                       rounding.py      weights to int8: GPTQ, exact
"""
