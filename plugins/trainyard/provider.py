"""What Trainyard registers with Airflow as a provider; reached through the entry point."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider record Airflow reads at start (provider_info.schema.json).

    Imports nothing: Airflow calls it in every component and every task process.
    """
    return {
        "package-name": "trainyard",
        "name": "Trainyard",
        "description": "Distributed-training benchmarks and scaling studies as Airflow pipelines.",
        "extra-links": [
            "trainyard.operators.links.MLflowRunLink",
            "trainyard.operators.links.ReportLink",
            "trainyard.operators.links.RunFolderLink",
        ],
    }
