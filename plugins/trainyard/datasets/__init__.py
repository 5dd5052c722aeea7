"""Data sets: fetched from their publisher, verified, staged in the object store, prepared for runs.

``fetch`` brings a data set from its source into the object store, once; ``prepare`` brings it from
the object store into the folder a training run memory-maps. Both can be interrupted and run again.
"""

from __future__ import annotations

from trainyard.datasets.catalogue import DatasetSource, choices, find
from trainyard.datasets.manifest import Manifest, QualityCheck, SplitCount, Verdict
from trainyard.datasets.materialise import prepare
from trainyard.datasets.stage import fetch, staged
from trainyard.datasets.versions import Reference, Version, fetch_version

__all__ = [
    "DatasetSource",
    "Manifest",
    "QualityCheck",
    "Reference",
    "SplitCount",
    "Verdict",
    "Version",
    "choices",
    "fetch",
    "fetch_version",
    "find",
    "prepare",
    "staged",
]
