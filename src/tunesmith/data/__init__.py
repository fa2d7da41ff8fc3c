"""The data room: from recordings to clips with captions.

from tunesmith.data import prepare, load_dataset

prepare("recordings", "dataset", sample_rate_hz=32000, channels=1)
clips = load_dataset("dataset")
"""

from tunesmith.data.load import load_dataset
from tunesmith.data.prepare import PreparedSummary, Progress, prepare
from tunesmith.data.sources import Rejection

__all__ = ["PreparedSummary", "Progress", "Rejection", "load_dataset", "prepare"]
