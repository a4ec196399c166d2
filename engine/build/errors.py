"""What can go wrong while a model bundle is built.

BuildError             every one of them; the message has what was found and the remedy
  CheckpointError      the folder or hub id is not a checkpoint this builder can read
  UnsupportedModel     a checkpoint of an architecture without a graph here
  CalibrationError     the calibration file cannot be used
  QualityError         the INT8 graph is too far from FP32, or depends on its batch
"""


class BuildError(Exception):
    """Base of all failures of `engine.build`."""


class CheckpointError(BuildError):
    """A missing, damaged or unsafe checkpoint file."""


class UnsupportedModel(BuildError):
    """An architecture, activation or pooling that has no graph here; the message lists what has."""


class CalibrationError(BuildError):
    """A calibration file without a single usable text."""


class QualityError(BuildError):
    """The bundle is under the bar; `force` builds it all the same."""
