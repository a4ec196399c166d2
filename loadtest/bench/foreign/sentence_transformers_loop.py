"""sentence-transformers in a loop: FP32 PyTorch, in process, one thread for each core it may use.

Runs in the peer's environment, so it imports nothing of ours. Takes {"checkpoint", "texts", "batch", "seconds"}
as JSON on stdin, prints {"rate", "p50_ms", "p99_ms"} as JSON; `rate` is in full batches a second.
"""

import importlib
import itertools
import json
import math
import sys
import time


def main() -> None:
    """Encode batch after batch; the first few are the warm-up."""
    task = json.load(sys.stdin)
    model = importlib.import_module("sentence_transformers").SentenceTransformer(task["checkpoint"], device="cpu")
    texts, size = task["texts"], task["batch"]
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    for group in groups[:3]:
        model.encode(group, batch_size=size)
    latencies_s: list[float] = []
    encoded, start = 0, time.perf_counter()
    for group in itertools.cycle(groups):
        before = time.perf_counter()
        model.encode(group, batch_size=size, show_progress_bar=False)
        now = time.perf_counter()
        latencies_s.append(now - before)
        encoded += len(group)
        if now - start >= task["seconds"]:
            break
    ordered = sorted(latencies_s)
    p50, p99 = (1000 * ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
    print(json.dumps({"rate": encoded / (now - start) / size, "p50_ms": p50, "p99_ms": p99}))


if __name__ == "__main__":
    main()
