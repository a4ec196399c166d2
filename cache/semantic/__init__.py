"""Vectors of near texts served in place of computed ones, within an error rate that is measured all the time.

Entered through `tier.py`: look up the texts of a request, observe what was computed for them.
"""
