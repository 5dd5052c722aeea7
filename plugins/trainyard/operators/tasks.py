"""The plain tasks of the pipelines: verify, fetch, plan, report. Thin: the work is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.bases.skipmixin import SkipMixin

from trainer.contract import Dataset
from trainyard.errors import ConfigurationError, EnvironmentFailedError
from trainyard.hooks.backends import backend_of
from trainyard.hooks.slurm import access_of, completed, transport_of
from trainyard.logs import bind
from trainyard.operators.abandoned import identity_of
from trainyard.operators.lanes import lane_of, leave_out
from trainyard.operators.links import MLflowRunLink, ReportLink
from trainyard.operators.retries import TASK_RETRIES
from trainyard.settings import Settings, load_settings
from trainyard.sites import Site, get_site, load_sites

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from trainyard.store import EnvironmentCheck


class _SiteOperator(BaseOperator):
    """A task about one site, whose name is a template."""

    template_fields: Sequence[str] = ("site",)

    def __init__(self, *, site: str = "{{ params.site }}", **kwargs: Any) -> None:
        kwargs.setdefault("retry_policy", TASK_RETRIES)
        super().__init__(**kwargs)
        self.site = site

    def places(self) -> tuple[Settings, Site]:
        """Return the settings and the site this task is about."""
        settings = load_settings()
        return settings, get_site(self.site, load_sites(Path(settings.sites_file)))


class VerifyEnvironmentOperator(_SiteOperator):
    """Checks a site, probes its nodes, stores all of it, and fails with what to do.

    A success is an event of the site's asset (see ``trainyard.operators.verified``).

    :param profiler: Profiler that must be there and permitted, or none. (templated)
    :param probes: How long nodes are probed: none, quick or full. (templated)
    :param nodes: Nodes to probe. (templated)
    :param reuse: Do nothing where a verification that passed is recent enough
        (``environment_hours`` of the settings).
    :param site: Name of the site. (templated)
    """

    template_fields: Sequence[str] = ("site", "profiler", "probes", "nodes")

    def __init__(
        self,
        *,
        profiler: str = "{{ params.get('profiler') or 'none' }}",
        probes: str = "{{ params.get('probes') or 'quick' }}",
        nodes: str = "{{ params.get('nodes_probed') or 1 }}",
        reuse: bool = False,
        **kwargs: Any,
    ) -> None:
        """Keep the arguments."""
        super().__init__(**kwargs)
        self.profiler = profiler
        self.probes = probes
        self.nodes = nodes
        self.reuse = reuse

    def execute(self, context: Context) -> str:
        """Return the number of checks, or why the last verification still counts."""
        from trainyard.environment_table import table
        from trainyard.operators import verified
        from trainyard.store import Verdict, open_store

        settings, site = self.places()
        if self.reuse and (fresh := verified.still_good(settings, site)):
            self.log.info("Site %s: %s", site.name, fresh)
            return fresh
        checks = self._checks(settings, site, identity_of(context).dag_run_id)
        if self.probes != "none" and not any(c.verdict == Verdict.FAILED for c in checks):
            # Alone and last: the checks before them keep cores busy.
            nodes, probes = int(self.nodes), self.probes
            found = verified.probe(settings, site, checks, thoroughness=probes, nodes=nodes)
            checks = [*checks, *found]
        self.log.info("Site %s:\n%s", site.name, table(checks))
        failed = [check for check in checks if check.verdict == Verdict.FAILED]
        if not any(check.name == "results database" for check in failed):
            with open_store(settings.results_url) as store:
                store.save_environment_checks(checks)
        if failed:
            told = "\n".join(f"{check.name}: {check.measured}; {check.detail}" for check in failed)
            raise EnvironmentFailedError(f"site {site.name} is not ready:\n{told}")
        verified.publish(context, site, checks)
        return f"{len(checks)} checks passed"

    def _checks(self, settings: Settings, site: Site, dag_run_id: str) -> list[EnvironmentCheck]:
        from trainyard.environment import verify

        place = None
        if site.slurm is not None:
            from trainyard.environment_slurm import cluster_checks

            place = cluster_checks(completed(site), access_of(site))
        if site.docker is not None:
            from trainyard.environment_docker import docker_checks
            from trainyard.hooks.docker import engine_of

            place = docker_checks(site, engine_of(site))
        if site.apptainer is not None:
            from trainyard.environment_apptainer import apptainer_checks

            place = (place or {}) | apptainer_checks(site, transport_of(site))
        if self.profiler not in {"none", "torch"}:
            from trainyard.environment_profilers import profiler_checks
            from trainyard.hooks.profilers import python_of

            place = (place or {}) | profiler_checks(self.profiler, python_of(site))
        return verify(settings, site, dag_run_id=dag_run_id, place=place)


class FetchDatasetOperator(_SiteOperator):
    """Stages a data set and prepares it where the site's runs read it; returns its digest.

    :param dataset: Data set, as name, name@latest or name@v1; ``synthetic`` needs nothing.
        (templated)
    :param site: Name of the site. (templated)
    """

    template_fields: Sequence[str] = ("site", "dataset")

    def __init__(self, *, dataset: str = "{{ params.dataset }}", **kwargs: Any) -> None:
        """Keep the arguments."""
        super().__init__(**kwargs)
        self.dataset = dataset

    def execute(self, context: Context) -> str:
        """Return the SHA-256 of the staged archive, empty for synthetic data."""
        from trainyard.datasets import fetch_version, prepare

        if self.dataset == Dataset.SYNTHETIC:
            self.log.info("Synthetic data is made by the trainer; nothing to fetch")
            return ""
        settings, site = self.places()
        # An alias is resolved here, once; the digest is what every run of the study is given.
        manifest, version = fetch_version(self.dataset, settings=settings)
        context["ti"].xcom_push("dataset_version", str(version))
        folder = prepare(manifest, Path(site.data_dir), settings)
        self.log.info("%s (%s) is ready in %s", version, manifest.digest, folder)
        return manifest.digest


class PlanStudyOperator(_SiteOperator, SkipMixin):
    """Draws up a study from the trigger form and returns one reference per run, to map over.

    :param suite: Suite that plans the runs.
    :param dataset_digest: SHA-256 of the staged archive. (templated)
    :param lanes: Name of each lane (see ``lanes.lane_of``) to its task; the other lanes' tasks
        are skipped.
    :param in_study: Whether the runs make a study with a report.
    :param site: Name of the site. (templated)
    """

    template_fields: Sequence[str] = ("site", "dataset_digest")
    operator_extra_links = (MLflowRunLink(),)
    # Without this mark the scheduler never looks for what a task left out.
    inherits_from_skipmixin = True

    def __init__(
        self,
        *,
        suite: str,
        dataset_digest: Any,
        lanes: Mapping[str, str],
        in_study: bool = True,
        **kwargs: Any,
    ) -> None:
        """Keep the arguments."""
        super().__init__(**kwargs)
        self.suite = suite
        self.dataset_digest = dataset_digest
        self.lanes = dict(lanes)
        self.in_study = in_study
        self.mlflow_url = ""

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return where each run is planned, in the order in which they shall run."""
        from trainyard.apptainer.identity import identified
        from trainyard.form import study_parameters
        from trainyard.study import make_study, references, start_study, write_study

        settings, site = self.places()
        values = dict(context["params"])
        tier = str(values.get("tier") or "")
        lane = lane_of(site, tier)
        if lane not in self.lanes:
            raise ConfigurationError(
                f"site {site.name!r} runs in pool {lane}, which this DAG has no task for; it "
                f"has {', '.join(self.lanes)}: parse the DAGs again after a change of the sites"
            )
        study = make_study(
            self.suite,
            study_parameters(values, site, dataset_digest=self.dataset_digest),
            identified(completed(site), transport_of(site)),
            identity=identity_of(context),
            task_id=self.lanes[lane],
            tier=tier,
            title=str(values.get("title") or ""),
            in_study=self.in_study,
        )
        bind(study_id=study.study_id or None)
        path = write_study(study)
        if self.in_study:
            self.mlflow_url = start_study(settings, study)
        for planned in study.plan.runs:
            self.log.info("block %s: %s (%s)", planned.block, planned.label, planned.spec.name)
        leave_out(context, {*self.lanes.values()} - {study.task_id})
        return references(path, study)


class ReportOperator(BaseOperator):
    """Collects what became of every planned run and publishes the study's report.

    Runs when all runs have ended, however they did. A failed run does not fail the report: it
    stands in it, and the study is marked as failed.

    :param planned: What the planning task returned. (templated)
    """

    template_fields: Sequence[str] = ("planned",)
    operator_extra_links = (ReportLink(), MLflowRunLink())

    def __init__(self, *, planned: Any, **kwargs: Any) -> None:
        """Keep the arguments."""
        kwargs.setdefault("retry_policy", TASK_RETRIES)
        super().__init__(**kwargs)
        self.planned = planned
        self.report_url = ""
        self.mlflow_url = ""

    def execute(self, context: Context) -> str:
        """Return the address of the report in the object store."""
        from trainyard.publish import publish_report
        from trainyard.study import run_of

        if not self.planned:
            raise ConfigurationError(
                "nothing was planned, so there is nothing to report; the plan task, or one before "
                "it, says why"
            )
        study = run_of(self.planned[0]).study
        bind(study_id=study.study_id or None)
        published = publish_report(load_settings(), study, backend_of(study.site))
        self.report_url, self.mlflow_url = published.url, published.mlflow_url
        self.log.info("%s: %s\nReport: %s", study.title, published.summary, published.html)
        return published.uri
