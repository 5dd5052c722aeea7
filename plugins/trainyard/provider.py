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
            "trainyard.operators.links.PerfettoLink",
            "trainyard.operators.links.ReportLink",
            "trainyard.operators.links.RunFolderLink",
            "trainyard.operators.links.SlurmJobLink",
            "trainyard.operators.links.TimelineLink",
        ],
        "connection-types": [
            {
                "connection-type": "slurm",
                "hook-class-name": "trainyard.hooks.slurm.SlurmHook",
                "hook-name": "Slurm",
                "ui-field-behaviour": {
                    # Nothing secret belongs here: the SSH connection has the key.
                    "hidden-fields": ["host", "login", "password", "port", "schema"],
                    "relabeling": {},
                    "placeholders": {},
                },
                "conn-fields": _FIELDS,
            }
        ],
    }


def _text(label: str, description: str) -> dict[str, Any]:
    return {
        "label": label,
        "schema": {"type": ["string", "null"], "default": None},
        "description": description,
    }


def _number(label: str, description: str, default: float, least: float) -> dict[str, Any]:
    return {
        "label": label,
        "schema": {"type": "number", "minimum": least, "default": default},
        "description": description,
    }


_FIELDS: dict[str, Any] = {
    "transport": {
        "label": "Transport",
        "schema": {"type": "string", "enum": ["local", "ssh"], "default": "local"},
        "description": "local: Slurm's commands on the Airflow hosts. ssh: on a login node.",
    },
    "ssh_conn_id": _text(
        "SSH connection", "Connection of type ssh of the login node; for transport ssh."
    ),
    "user": _text("User", "Account on the login node; empty: that of the SSH connection."),
    "bin_dir": _text("Folder of commands", "Where sbatch and squeue are; empty: on the PATH."),
    "slurm_conf": _text("SLURM_CONF", "Configuration file for the commands; empty: the usual one."),
    "partition": _text("Partition", "For sites that name none; empty: the cluster's default."),
    "account": _text("Account", "For sites that name none; empty: the user's default."),
    "commands_per_s": _number(
        "Commands per second", "Most that watching sends, for all jobs together.", 0.2, 0.01
    ),
    "min_poll_s": _number(
        "Seconds between looks", "Least time between two looks while jobs run.", 6.5, 0.5
    ),
}
"""The form's fields, stored as the connection's extras under these names."""
