"""A study on disk: planned once, then read by every run of it. Free of Airflow.

``plan.json`` holds the whole study, site included, so that what was planned is what runs even when
a site file changes in between; what travels between tasks is its location and an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.contract import ContractError, dumps, loads
from trainyard.audit import triggered_by
from trainyard.backends import folder
from trainyard.backends.identity import TaskIdentity
from trainyard.errors import ConfigurationError
from trainyard.launch import Launch, launch
from trainyard.paths import RunPaths, run_id_of
from trainyard.placement import spread
from trainyard.presets import StudyParameters
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.slurm.options import JobOptions
from trainyard.suites import SUITES, PlannedRun, StudyPlan


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyFile:
    """plan.json: one study and where its runs happen."""

    study_id: str
    """Name of the study; empty for runs that belong to none."""
    title: str
    """Title for people."""
    dag_id: str
    """DAG that runs it."""
    dag_run_id: str
    """DAG run that runs it."""
    task_id: str
    """Task whose mapped instances are the runs, in order."""
    created_at: str
    """When it was planned, UTC, ISO 8601."""
    tier: str = ""
    """Priority tier of the site in which the runs are queued; empty: none."""
    mapped: bool = True
    """The runs are mapped task instances; false: the task is the one run."""
    site: Site
    """Where the runs happen, as it was at planning."""
    plan: StudyPlan
    """The runs in their order."""

    def run(self, index: int) -> StudyRun:
        """Return run *index*, from 0."""
        if not 0 <= index < len(self.plan.runs):
            raise ConfigurationError(
                f"run {index} of study {self.study_id!r}: it has runs 0 to "
                f"{len(self.plan.runs) - 1}"
            )
        return StudyRun(study=self, index=index)


@dataclass(kw_only=True, slots=True, frozen=True)
class StudyRun:
    """One planned run and its place."""

    study: StudyFile
    """The study it belongs to."""
    index: int
    """Its place in the plan, which is its map index."""

    @property
    def planned(self) -> PlannedRun:
        """What to run."""
        return self.study.plan.runs[self.index]

    @property
    def paths(self) -> RunPaths:
        """The files of its first attempt."""
        study = self.study
        index = self.index if study.mapped else -1
        run_id = run_id_of(study.dag_id, study.dag_run_id, study.task_id, index)
        return RunPaths(root=Path(study.site.runs_dir), run_id=run_id)


def study_id_of(dag_id: str, dag_run_id: str) -> str:
    """Return the id of the study a DAG run makes; clearing the run changes nothing."""
    return run_id_of(dag_id, dag_run_id, "study")


def order_seed_of(study_id: str) -> int:
    """Return the seed of a study's order: another one for every study, the same on a retry."""
    return int(hashlib.sha256(study_id.encode()).hexdigest()[:8], 16)


def plan_path(site: Site, dag_id: str, dag_run_id: str, name: str = "plan") -> Path:
    """Return where a plan of a DAG run is kept: with the runs, where every part can read it."""
    return Path(site.runs_dir) / ".studies" / study_id_of(dag_id, dag_run_id) / f"{name}.json"


def make_study(
    suite: str,
    parameters: StudyParameters,
    site: Site,
    *,
    identity: TaskIdentity,
    task_id: str,
    title: str = "",
    tier: str = "",
    in_study: bool = True,
) -> StudyFile:
    """Return the study that *suite* plans on *site*; writes nothing.

    *task_id* is the task whose mapped instances will be the runs. Every run is launched on paper,
    so that a study which would fail at its last run fails here. Raises ``ConfigurationError``.
    """
    if suite not in SUITES:
        raise ConfigurationError(f"suite = {suite!r}; choose from {', '.join(SUITES)}")
    study_id = study_id_of(identity.dag_id, identity.dag_run_id)
    try:
        plan = spread(SUITES[suite](parameters, order_seed_of(study_id)), site)
    except ContractError as error:
        raise ConfigurationError(str(error)) from error
    study = StudyFile(
        study_id=study_id if in_study else "",
        title=title or _title(plan, site),
        dag_id=identity.dag_id,
        dag_run_id=identity.dag_run_id,
        task_id=task_id,
        created_at=datetime.now(UTC).isoformat(),
        tier=site.tier(tier).name,
        site=site,
        plan=plan,
    )
    for index in range(len(plan.runs)):
        launch_of(study.run(index))
    return study


def launch_of(run: StudyRun, paths: RunPaths | None = None) -> Launch:
    """Return how *run* is started, with its files in *paths* (empty: its first attempt's)."""
    options = JobOptions(tier=run.study.tier)
    return launch(run.planned.spec, run.study.site, paths or run.paths, options)


def _title(plan: StudyPlan, site: Site) -> str:
    parameters = plan.parameters
    ranks = ", ".join(str(ranks) for ranks in sorted(parameters.ranks))
    kind = {"scaling": "Scaling study", "profile": "Profile"}.get(plan.suite, "Run")
    return f"{kind}: {parameters.model} on {parameters.dataset}, {ranks} ranks, {site.name}"


def write_study(study: StudyFile, name: str = "plan") -> Path:
    """Write plan.json and return its path; a plan that is there already stays as it is.

    *name*: another one for a further plan of the same DAG run.

    Clearing the planning task of a study whose runs exist must not change what they are. Raises
    ``ConfigurationError`` when the plan there is another one.
    """
    path = plan_path(study.site, study.dag_id, study.dag_run_id, name)
    if path.exists():
        kept = read_study(path)
        if kept.plan != study.plan:
            raise ConfigurationError(
                f"{path}: this DAG run has planned other runs already; trigger a new DAG run "
                "instead of changing the parameters of this one"
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_once(path, dumps(study))
    return path


def read_study(path: Path) -> StudyFile:
    """Return the study that *path* holds; raises ``ConfigurationError`` naming the file."""
    try:
        return loads(StudyFile, path.read_text(), str(path))
    except OSError as error:
        raise ConfigurationError(
            f"plan {path}: {error.strerror}; clear the planning task to write it again"
        ) from error
    except ContractError as error:
        raise ConfigurationError(str(error)) from error


def plan_summary(study: StudyFile) -> list[dict[str, Any]]:
    """Return the planned runs as the results database keeps them."""
    return [
        {
            "run_id": study.run(index).paths.run_id,
            "label": planned.label,
            "block": planned.block,
            "repeat": planned.repeat,
            "config_id": planned.spec.config_id,
            "spec_id": planned.spec.spec_id,
            "name": planned.spec.name,
            "ranks": planned.spec.ranks,
            "seed": planned.spec.seed,
        }
        for index, planned in enumerate(study.plan.runs)
    ]


def references(path: Path, study: StudyFile) -> list[dict[str, Any]]:
    """Return what goes through XCom: for each run where it is planned, and a label to show."""
    return [
        {"plan": str(path), "index": index, "label": planned.label}
        for index, planned in enumerate(study.plan.runs)
    ]


def run_of(reference: Mapping[str, Any]) -> StudyRun:
    """Return the run that an entry of ``references`` names."""
    return read_study(Path(reference["plan"])).run(reference["index"])


def start_study(settings: Settings, study: StudyFile) -> str:
    """Save the study's row and open its run in the tracking server; return that run's page.

    Planned again, it keeps its links and its start.
    """
    from trainyard import lineage
    from trainyard.store import StudyRow, open_store

    parameters = study.plan.parameters
    row = StudyRow(
        study_id=study.study_id,
        suite=study.plan.suite,
        site=study.site.name,
        dag_run_id=study.dag_run_id,
        title=study.title,
        preset=parameters.preset,
        dataset=parameters.dataset,
        dataset_digest=parameters.dataset_digest,
        repeats=parameters.repeats,
        order_seed=study.plan.order_seed,
        plan=plan_summary(study),
        created_at=study.created_at,
    )
    with open_store(settings.results_url) as store:
        store.save_study(row)
        who = triggered_by(store, study.dag_id, study.dag_run_id)
        found = lineage.record_study_start(settings, row, dag_id=study.dag_id, triggered_by=who)
        row = replace(
            row,
            mlflow_experiment_id=found.experiment_id,
            mlflow_run_id=found.run_id,
            mlflow_url=found.url,
        )
        store.save_study(row)
    return row.mlflow_url
