"""Many trainings that differ in a few settings: which of them comes nearest to held-out recordings."""

from tunesmith.sweep.grid import Trial, trials_of
from tunesmith.sweep.run import Wishes, sweep
from tunesmith.sweep.table import Table

__all__ = ["Table", "Trial", "Wishes", "sweep", "trials_of"]
