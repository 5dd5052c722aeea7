"""The tasks of ``profile_run`` around its runs: verdict, suggestion, comparison. Thin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.skipmixin import SkipMixin

from trainyard.errors import ConfigurationError
from trainyard.hooks.backends import backend_of
from trainyard.operators.lanes import lane_of, leave_out
from trainyard.operators.links import MLflowRunLink, PerfettoLink, ReportLink, TimelineLink
from trainyard.operators.retries import PROFILE_RETRIES
from trainyard.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from trainyard.profiling.publish import PublishedProfile
    from trainyard.study import StudyFile


class _ProfileTask(BaseOperator):
    """A task that reads traces and publishes a report."""

    operator_extra_links = (ReportLink(), TimelineLink(), PerfettoLink(), MLflowRunLink())

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("retry_policy", PROFILE_RETRIES)
        super().__init__(**kwargs)
        self.report_url = self.timeline_url = self.perfetto_url = self.mlflow_url = ""

    def recorded(self, planned: Any) -> StudyFile:
        """Return the plan that *planned* names, with a row for every run of it.

        Raises ``ConfigurationError`` when nothing was planned.
        """
        from trainyard.ingest import collect_missing
        from trainyard.study import run_of

        if not planned:
            raise ConfigurationError(
                "no run was planned, so there is nothing to analyse; the plan task, or one before "
                "it, says why"
            )
        study = run_of(planned[0]).study
        collect_missing(load_settings(), study, backend_of(study.site))
        return study

    def tell(self, made: PublishedProfile) -> None:
        """Say the verdict and where everything is, in the log and as buttons."""
        from trainyard.profile.cli import summary_lines
        from trainyard.profiling.pairs import told

        found = made.profiled
        self.log.info("%s", "\n".join(summary_lines(found.analysis)))
        profiler = made.row.profiler
        self.log.info(
            "Cost of %s, by %s pairs of runs: %s; %s",
            profiler,
            found.overhead.pairs,
            told("steps before the captured ones", found.overhead.outside),
            told("captured steps", found.overhead.inside),
        )
        others = set(found.other_bounds) - {made.row.bound}
        if others:
            self.log.warning("Repeats disagree: they are bound by %s, too", ", ".join(others))
        self.log.info(
            "Report: %s\nPDF: %s\nTimeline: %s\nFor Perfetto: %s\nIn the object store: %s",
            made.files.html, made.files.pdf, made.files.timeline, made.files.trace,
            made.row.report_uri,
        )  # fmt: skip
        self.report_url, self.mlflow_url = made.url, made.mlflow_url
        self.timeline_url, self.perfetto_url = made.timeline_url, made.trace_url


class ProfileOperator(_ProfileTask):
    """Analyses the profiled runs of a plan, says the verdict and publishes the report.

    :param planned: What the planning task returned. (templated)
    """

    template_fields: Sequence[str] = ("planned",)

    def __init__(self, *, planned: Any, **kwargs: Any) -> None:
        """Keep the arguments."""
        super().__init__(**kwargs)
        self.planned = planned

    def execute(self, context: Context) -> str:
        """Return the id of the run whose profile the verdict rests on."""
        from trainyard.profiling.publish import publish_profile

        del context
        made = publish_profile(load_settings(), self.recorded(self.planned))
        self.tell(made)
        return made.row.run_id


class PlanSuggestionOperator(BaseOperator, SkipMixin):
    """Plans the same runs with the first suggestion, or none where there is nothing to try.

    :param planned: What the planning task returned. (templated)
    :param profiled: Id of the run whose profile holds the suggestion. (templated)
    :param lanes: Name of each lane to its task; the other lanes' tasks are skipped.
    """

    template_fields: Sequence[str] = ("planned", "profiled")
    # Without this mark the scheduler never looks for what a task left out.
    inherits_from_skipmixin = True

    def __init__(
        self, *, planned: Any, profiled: Any, lanes: Mapping[str, str], **kwargs: Any
    ) -> None:
        """Keep the arguments."""
        kwargs.setdefault("retry_policy", PROFILE_RETRIES)
        super().__init__(**kwargs)
        self.planned = planned
        self.profiled = profiled
        self.lanes = dict(lanes)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return where each run is planned; nothing where nothing is to be tried."""
        from trainyard.profiling.tryout import TRIED, changed_study
        from trainyard.store import open_store
        from trainyard.study import references, run_of, write_study

        study = run_of(self.planned[0]).study
        if not context["params"].get("try_suggestion"):
            self.log.info("Nothing is tried: try_suggestion is off")
            return self._nothing(context)
        with open_store(load_settings().results_url) as store:
            row = store.query("profile", run_id=str(self.profiled))[0]
        field, value = row["suggestion_field"], row["suggestion_to"]
        if not field:
            self.log.info("Nothing can be tried: no field of a run changes what binds it")
            return self._nothing(context)
        task = self.lanes[lane_of(study.site, study.tier)]
        changed = changed_study(study, field, value, task_id=task)
        path = write_study(changed, TRIED)
        current = row["suggestion_from"]
        self.log.info("Trying %s = %s instead of %s", field, value, current)
        leave_out(context, {*self.lanes.values()} - {task})
        return references(path, changed)

    def _nothing(self, context: Context) -> list[dict[str, Any]]:
        leave_out(context, self.lanes.values())
        return []


class CompareProfilesOperator(_ProfileTask):
    """Sets the profiles before and after the tried suggestion side by side.

    :param before: What the planning task returned. (templated)
    :param after: What the task that planned the suggestion returned. (templated)
    """

    template_fields: Sequence[str] = ("before", "after")

    def __init__(self, *, before: Any, after: Any, **kwargs: Any) -> None:
        """Keep the arguments."""
        super().__init__(**kwargs)
        self.before = before
        self.after = after

    def execute(self, context: Context) -> str:
        """Return the outcome in a sentence; skips itself where nothing was tried."""
        from airflow.sdk.exceptions import AirflowSkipException

        from trainyard.profiling.publish import publish_try

        del context
        if not self.after:
            raise AirflowSkipException("nothing was tried, so there is nothing to compare")
        made = publish_try(load_settings(), self.recorded(self.before), self.recorded(self.after))
        self.tell(made.after)
        self.log.info("%s\nBefore and after: %s", made.sentence, made.files.html)
        self.report_url = made.url
        return made.sentence
