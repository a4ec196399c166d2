"""Scripts that run in a candidate's own environment, started by their path: see worker.py for what one must have.

All but `dejavec_*.py` import nothing of ours.
"""
