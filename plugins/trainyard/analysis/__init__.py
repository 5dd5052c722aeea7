"""Statistics of scaling studies. Pure: no Airflow, no files, no plots."""

from __future__ import annotations

from trainyard.analysis.results import Analysis, Curve, analyse
from trainyard.analysis.study import DatasetFacts, EnvironmentCheck, StudyData, StudyRecord

__all__ = [
    "Analysis",
    "Curve",
    "DatasetFacts",
    "EnvironmentCheck",
    "StudyData",
    "StudyRecord",
    "analyse",
]
