"""Buttons on an Airflow task that lead to its MLflow run, its report and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _AttributeLink(BaseOperatorLink):
    """Reads the address from the operator, which learns it while it runs.

    Airflow asks once, at the end of each task process, and keeps the answer.
    """

    attribute = ""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or an empty text, which Airflow shows as a disabled button."""
        return str(getattr(operator, self.attribute, "") or "")


class MLflowRunLink(_AttributeLink):
    """The run in the tracking server."""

    attribute = "mlflow_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "MLflow run"


class ReportLink(_AttributeLink):
    """The study's report."""

    attribute = "report_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "Report"


class TimelineLink(_AttributeLink):
    """Every event of a profile, zoomable."""

    attribute = "timeline_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "Timeline"


class PerfettoLink(_AttributeLink):
    """The trace for ui.perfetto.dev."""

    attribute = "perfetto_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "Perfetto trace"


class RunFolderLink(_AttributeLink):
    """The run's files in the object store, or its folder while it runs."""

    attribute = "files_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "Run files"


class SlurmJobLink(_AttributeLink):
    """Job id, cluster, nodes and state: the task's page that shows them."""

    attribute = "job_url"

    @property
    def name(self) -> str:
        """Text of the button."""
        return "Slurm job"
