"""A bundle's graph, opened and checked on this machine: token ids in, vectors out.

session.py         opens a bundle, measures what a run costs
cpu_session.py     every session on a CPU, with exact integer products (checked with kernel_check.onnx)
device.py          CPU or CUDA, and the name of the kernels
fixed_shapes.py    runs on a GPU, in shapes that a text's own length decides
topology.py        usable cores -> sessions and threads
check_vectors.py   texts computed at every start and compared with the bundle's
quality_bar.py     what a bundle must reach to be served
gpu_memory.py      GPU memory, for the metrics
measure_memory.py  a model's memory in a fresh process, for `dejavec model verify`
measure_speed.py   what one thread computes, for `dejavec up` with several models
"""
