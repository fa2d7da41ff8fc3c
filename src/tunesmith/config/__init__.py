"""The run configuration: strict, every fault reported at once, each with its line and a mend."""

from __future__ import annotations

from tunesmith.config.load import Loaded, dump, load_config
from tunesmith.config.sections import (
    BaseConfig,
    ConceptConfig,
    DataConfig,
    PreviewConfig,
    PriorConfig,
    ReplayConfig,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "BaseConfig",
    "ConceptConfig",
    "DataConfig",
    "Loaded",
    "PreviewConfig",
    "PriorConfig",
    "ReplayConfig",
    "RunConfig",
    "TrainConfig",
    "dump",
    "load_config",
]
