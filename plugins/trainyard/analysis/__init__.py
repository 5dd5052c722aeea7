"""Statistics of scaling studies. Pure: no Airflow, no files, no plots."""

from __future__ import annotations

from trainyard.analysis.facts import DatasetFacts, EnvironmentCheck, StudyRecord
from trainyard.analysis.results import Analysis, Curve, analyse
from trainyard.analysis.study import StudyData

__all__ = [
    "Analysis",
    "Curve",
    "DatasetFacts",
    "EnvironmentCheck",
    "StudyData",
    "StudyRecord",
    "analyse",
]
