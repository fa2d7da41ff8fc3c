"""The data room: from recordings to clips with captions.

from tunesmith.data import check, load_dataset, prepare

prepare("recordings", "dataset", sample_rate_hz=32000, channels=1)
check("dataset", "lora").findings
clips = load_dataset("dataset")
"""

from tunesmith.data.check import Check, check
from tunesmith.data.load import load_dataset
from tunesmith.data.prepare import Progress, prepare
from tunesmith.data.sources import Rejection
from tunesmith.data.summary import PreparedSummary

__all__ = ["Check", "PreparedSummary", "Progress", "Rejection", "check", "load_dataset", "prepare"]
