"""The engine's queue: requests wait in lanes and run together in batches.

batcher.py     admission, what runs next and where, results back to their requests
lane_queue.py  the texts of one lane by age and by length, and the choice of a batch
run_times.py   how long a run should take, by its texts' lengths
worker.py      a thread that runs batches
heartbeat.py   test inferences at intervals, and the end of a process whose run has hung
"""
