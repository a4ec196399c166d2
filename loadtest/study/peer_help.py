"""What `dejavec study --list-peers` prints."""

PEERS = """\
Peers, each in an environment of its own, in a folder of your choice. PyTorch first, as its build for CPUs, or
gigabytes of CUDA come along.

The usual ways (torch, onnx, onnx-int8), if you do not want them in this environment
  python -m venv usual && usual/bin/pip install torch sentence-transformers "transformers<5" onnx onnxruntime
  dejavec study --peer torch=usual/bin/python --peer onnx=usual/bin/python --peer onnx-int8=usual/bin/python

openvino, openvino-int8: OpenVINO in FP32, and in static INT8 by NNCF
  python -m venv ov && ov/bin/pip install openvino nncf torch "transformers<5" onnx
  dejavec study --peer openvino=ov/bin/python --peer openvino-int8=ov/bin/python

ctranslate2: CTranslate2 with INT8 weights
  python -m venv ct2 && ct2/bin/pip install ctranslate2 torch transformers
  dejavec study --peer ctranslate2=ct2/bin/python

llama-cpp: llama.cpp's server in process, Q8_0 weights, converted here; built for AVX2
  python -m venv llama && llama/bin/pip install xllamacpp gguf safetensors
  for a CPU with more than AVX2, compiled for it (ten minutes and more):
  python -m venv llama && CMAKE_ARGS="-DGGML_NATIVE=ON" llama/bin/pip install llama-cpp-python gguf safetensors
  dejavec study --peer llama-cpp=llama/bin/python

fastembed: ONNX Runtime in FP32, as Qdrant's library runs it
  python -m venv fastembed && fastembed/bin/pip install fastembed torch "transformers<5" onnx
  dejavec study --peer fastembed=fastembed/bin/python

infinity: Infinity's server on dynamic INT8
  python -m venv infinity && infinity/bin/pip install torch "infinity-emb[server,optimum]==0.0.78" \\
      "optimum==1.24.0" "transformers<4.49" "click<8.2" onnx onnxruntime
  dejavec study --peer infinity=infinity/bin/python

No backend: text-embeddings-inference and Ollama, whose packages on PyPI, npm and Debian are clients.

Any other: a file of yours, run with the Python you name, without anything of ours
  dejavec study --peer mine=env/bin/python,mine.py
It has `load(options)`, which returns an object with `encode(texts)`, float32[n, dimensions] of length 1, and `files`,
the paths whose size counts. `options` has checkpoint, folder, max_tokens and calibration (texts). Optional:
`prepare(options)`, run before in a process of its own, and PACKAGES, names whose versions are reported.
"""
