"""The DAGs as Airflow sees them: importable, documented, bounded, in pools, and run end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.airflow import ROOT, AirflowHome, write_sites
from tests.fixtures.settings import make_settings

DAGS = {
    "verify_environment", "fetch_dataset", "train", "scaling_study", "nightly_benchmark",
    "reconcile_slurm", "profile_run",
}  # fmt: skip
POOLS = {"trainyard_cpu", "trainyard_gpu"}


def load() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags", bundle_name="dags-folder")


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory) -> Iterator[Path]:
    """Two sites, one with GPUs, and a nightly schedule."""
    folder = tmp_path_factory.mktemp("dags")
    sites = write_sites(folder, "/opt/python")
    box = sites.read_text().replace("[local]", "[box]") + "gpus_per_node = 4\n"
    sites.write_text(sites.read_text() + "\n" + box)
    make_settings(folder, sites_file=str(sites), nightly_schedule="30 1 * * *")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_SETTINGS", str(folder / "settings.toml"))
        yield folder / "settings.toml"


@pytest.fixture(scope="module")
def bag(settings_file):
    return load()


@pytest.fixture(scope="module")
def tasks(bag):
    return [task for dag in bag.dags.values() for task in dag.tasks]


class TestStructure:
    def test_import_without_errors(self, bag):
        assert bag.import_errors == {}
        assert set(bag.dags) == DAGS

    @pytest.mark.parametrize("name", sorted(DAGS))
    def test_each_says_what_it_does_and_cannot_run_for_ever(self, bag, name):
        dag = bag.dags[name]
        assert len(dag.doc_md) > 80
        assert "trainyard" in dag.tags
        assert dag.dagrun_timeout is not None
        assert dag.catchup is False

    def test_every_task_has_an_owner_docs_retries_and_a_limit(self, tasks):
        for task in tasks:
            assert task.owner == "trainyard", task.task_id
            assert task.doc_md, task.task_id
            assert task.retries >= 1, task.task_id
            assert task.execution_timeout, task.task_id

    def test_training_goes_through_its_pool_first_and_nothing_else_does(self, tasks):
        for task in tasks:
            name = task.task_id.removeprefix("changed_")
            trains = name.startswith("run_on_")
            assert (task.pool in POOLS) is trains, task.task_id
            if trains:
                assert task.pool == name.replace("run_on", "trainyard")
                assert task.priority_weight > 1
                assert task.weight_rule == "absolute"
                assert task.is_mapped
                assert task.has_retry_policy, "else a failed run is run again, and fails again"
                assert "label" in task.partial_kwargs["map_index_template"]

    def test_a_failed_run_turns_the_study_red_and_does_not_stop_the_report(self, bag):
        from airflow.sdk import TriggerRule

        for name in ("scaling_study", "nightly_benchmark"):
            dag = bag.dags[name]
            report, last = dag.get_task("report"), dag.get_task("study_complete")
            assert report.trigger_rule == TriggerRule.ALL_DONE, "lanes are skipped, runs may fail"
            assert report.upstream_task_ids == {"plan", "run_on_cpu", "run_on_gpu"}
            assert last.trigger_rule == TriggerRule.NONE_FAILED
            assert last.upstream_task_ids == {"report", "run_on_cpu", "run_on_gpu"}
            assert last.downstream_task_ids == set()
            assert type(last).__name__ == "EmptyOperator", "settled without a process"

    def test_the_nightly_chain(self, bag):
        dag = bag.dags["nightly_benchmark"]
        assert dag.max_active_runs == 1
        assert dag.timetable.expression == "30 1 * * *"
        assert str(dag.timetable.timezone) == "UTC"
        assert dag.get_task("fetch_dataset").upstream_task_ids == {"verify_environment"}
        assert not dag.get_task("verify_environment").reuse, "every night is verified anew"
        assert dag.get_task("plan").upstream_task_ids == {"fetch_dataset"}

    def test_survive_serialisation(self, bag):
        from airflow.serialization.serialized_objects import DagSerialization

        for dag in bag.dags.values():
            data = json.loads(json.dumps(DagSerialization.to_dict(dag)))
            again = DagSerialization.from_dict(data)
            assert set(again.task_dict) == set(dag.task_dict)
            assert again.doc_md == dag.doc_md
            assert set(again.params) == set(dag.params)
            for task_id, task in dag.task_dict.items():
                kept = again.get_task(task_id)
                assert kept.pool == task.pool
                assert kept.upstream_task_ids == task.upstream_task_ids
                assert kept.trigger_rule == task.trigger_rule


class TestForms:
    @pytest.mark.parametrize("name", sorted(DAGS))
    def test_every_field_is_titled_described_sorted_into_a_section_and_typed(self, bag, name):
        params = bag.dags[name].params
        for key in params:
            param = params.get_param(key)
            schema = param.schema
            assert schema["title"], key
            assert len(param.description) > 15, key
            assert schema["section"], key
            assert schema["type"], key
            numeric = {"integer", "number"} & set(
                [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            )
            if numeric:
                assert "maximum" in schema, key
                assert {"minimum", "exclusiveMinimum"} & set(schema), key
            param.resolve()

    def test_every_study_parameter_can_be_set(self, bag):
        from trainyard.form import _OVERRIDES

        offered = set(bag.dags["nightly_benchmark"].params)
        assert offered - {"site", "tier", "preset", "title"} <= _OVERRIDES
        assert {"ranks", "global_batches", "repeats", "model", "precision", "dataset"} <= offered

    def test_sites_are_choices(self, bag):
        schema = bag.dags["train"].params.get_param("site").schema
        assert schema["enum"] == ["box", "local"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("site", "moon"),
            ("dataset", "imagenet"),
            ("dataset", "digits@newest"),
            ("dataset", "digits@v0"),
            ("precision", "int8"),
            ("repeats", 0),
            ("repeats", 101),
            ("ranks", [0]),
            ("ranks", ["two"]),
            ("ranks", [2, 2]),
            ("controls", ["magic"]),
            ("learning_rate", 0),
        ],
    )
    def test_bounds_are_enforced_before_anything_runs(self, bag, field, value):
        from airflow.sdk.exceptions import ParamValidationError

        param = bag.dags["nightly_benchmark"].params.get_param(field)
        with pytest.raises(ParamValidationError):
            param.resolve(value)


class TestWithoutSettings:
    def test_the_dags_can_be_parsed_before_anything_is_set_up(self, monkeypatch):
        monkeypatch.delenv("TRAINYARD_SETTINGS", raising=False)
        bag = load()
        assert bag.import_errors == {}
        assert type(bag.dags["nightly_benchmark"].timetable).__name__ == "NullTimetable"


class TestPluginLoader:
    def test_the_loader_executes_the_shim_and_nothing_of_the_package(self, airflow_home):
        """See plugins/.airflowignore: without it, modules are replaced by file stem."""
        code = """
import sys
from airflow import plugins_manager
found, errors = plugins_manager._get_plugins()
assert not errors, errors
assert [p.name for p in found if p.name == 'trainyard'] == ['trainyard'], found
ours = [n for n, m in sys.modules.items()
        if '/plugins/trainyard/' in (getattr(m, '__file__', None) or '')]
assert ours and all(n == 'trainyard' or n.startswith('trainyard.') for n in ours), ours
import docker
assert '/site-packages/docker/' in docker.__file__
print('clean')
"""
        assert airflow_home.run("-c", code).stdout.endswith("clean\n")

    def test_without_the_ignore_file_the_package_would_be_executed(self, airflow_home, tmp_path):
        """The trap is real in this Airflow: this test tells when the ignore file may go."""
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "colorsys.py").write_text("OURS = True\n")
        code = (
            "from airflow import plugins_manager; plugins_manager._get_plugins();"
            "import colorsys; print(getattr(colorsys, 'OURS', False))"
        )
        env = {**airflow_home.env, "AIRFLOW__CORE__PLUGINS_FOLDER": str(tmp_path)}
        home = AirflowHome(folder=tmp_path, env=env)
        assert home.run("-c", code).stdout.endswith("True\n")
        (tmp_path / ".airflowignore").write_text("package/\n")
        assert home.run("-c", code).stdout.endswith("False\n")

    def test_airflow_knows_the_provider(self, airflow_home):
        code = (
            "from airflow.providers_manager import ProvidersManager as M; m = M();"
            "print(m.providers['trainyard'].data['name'], sorted(m.extra_links_class_names))"
        )
        said = airflow_home.run("-c", code).stdout
        assert "Trainyard" in said
        for link in ("MLflowRunLink", "ReportLink", "RunFolderLink"):
            assert f"trainyard.operators.links.{link}" in said


class TestPools:
    def test_a_scheduler_makes_the_pools_that_are_missing_and_changes_no_other(self, airflow_home):
        """In a process of its own, with Airflow's own listener manager and database."""
        code = """
from types import SimpleNamespace
from airflow.listeners.listener import get_listener_manager
from airflow.models.pool import Pool
from airflow.utils.session import create_session

def pools():
    with create_session() as session:
        return {p.pool: (p.slots, p.include_deferred) for p in Pool.get_pools(session=session)
                if p.pool.startswith('trainyard')}

def start(kind):
    get_listener_manager().hook.on_starting(component=SimpleNamespace(job_type=kind))

start('TriggererJob')
assert pools() == {}, pools()
with create_session() as session:
    Pool.create_or_update_pool('trainyard_gpu', 8, 'mine', True, session=session)
start('SchedulerJob')
assert pools() == {'trainyard_gpu': (8, True), 'trainyard_cpu': (1, True)}, pools()
start('SchedulerJob')
print('made')
"""
        assert airflow_home.run("-c", code).stdout.endswith("made\n")

    def test_every_training_task_waits_in_one_of_them(self, tasks):
        from trainyard.hooks import pools

        assert {task.pool for task in tasks if task.task_id.startswith("run_on_")} == set(
            pools.POOLS
        )


RUN_DAG = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import DagBag

folder = Path(sys.argv[1])
bag = DagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
run = bag.dags[sys.argv[2]].test(run_conf=json.loads(sys.argv[3]))
tasks = {f"{t.task_id}[{t.map_index}]": t.state for t in run.get_task_instances()}
print(json.dumps({"state": run.state, "run_id": run.run_id, "tasks": tasks}))
"""


def run_dag(home: AirflowHome, dag_id: str, **conf: Any) -> dict[str, Any]:
    done = home.run("-c", RUN_DAG, str(ROOT / "dags"), dag_id, json.dumps(conf), check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return {**json.loads(lines[-1]), "log": done.stdout}


def ask(home: AirflowHome, name: str, **params: Any) -> list[dict[str, Any]]:
    from trainyard.settings import load_settings
    from trainyard.store import open_store

    with open_store(load_settings(Path(home.env["TRAINYARD_SETTINGS"])).results_url) as store:
        return store.query(name, **params)


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestEndToEnd:
    """Real object store, real MLflow, real trainer; only the scheduler is ``dag.test``'s."""

    def test_train(self, pipeline_home):
        ran = run_dag(pipeline_home, "train", dataset="digits", ranks=[2], epochs=1)
        assert ran["state"] == "success", ran["log"][-3000:]
        (row,) = ask(pipeline_home, "runs_of_dag_run", dag_id="train", dag_run_id=ran["run_id"])
        assert row["status"] == "completed"
        assert row["study_id"] in {"", None}
        assert row["mlflow_url"].startswith("http")
        assert row["artifacts_uri"].startswith("s3://")

    def test_nightly_benchmark(self, pipeline_home):
        ran = run_dag(
            pipeline_home, "nightly_benchmark", dataset="digits", repeats=1, epochs=1, title="Test",
            profiler="torch",
        )  # fmt: skip
        assert ran["state"] == "success", ran["log"][-3000:]
        assert ran["tasks"]["report[-1]"] == "success"
        studies = ask(pipeline_home, "studies_recent", limit=50)
        (study,) = [row for row in studies if row["dag_run_id"] == ran["run_id"]]
        assert (study["status"], study["completed_runs"]) == ("completed", 5)
        report = Path(study["report_path"])
        assert "Test" in report.read_text()
        assert report.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        asked = {"dag_id": "nightly_benchmark", "dag_run_id": ran["run_id"]}
        (profile,) = ask(pipeline_home, "profiles_of_dag_run", **asked)
        assert profile["headline"] in report.read_text()
        assert profile["report_uri"] in report.read_text()
        rows = ask(pipeline_home, "study_runs", study_id=study["study_id"])
        (watched,) = [row for row in rows if "profiled" in row["flags"]]
        assert watched["run_id"] == profile["run_id"]
        assert not watched["comparable"], "never among the measured numbers"
        checks = ask(pipeline_home, "environment_latest", site="local")
        assert {check["dag_run_id"] for check in checks} == {ran["run_id"]}

    def test_a_rank_that_dies_costs_its_run_and_not_the_study(self, pipeline_home, tmp_path):
        """The trainer's python is replaced by one that kills every two-rank run half-way."""
        from tests.fixtures.airflow import TRAINER
        from trainyard.settings import load_settings

        killer = tmp_path / "python"
        killer.write_text(
            f'#!/bin/bash\ncase "$*" in *torch.distributed.run*nproc-per-node\\ 2*) '
            f"echo 'rank 1 was killed' >&2; exit 1;; esac\nexec {TRAINER} \"$@\"\n"
        )
        killer.chmod(0o755)
        before = load_settings(Path(pipeline_home.env["TRAINYARD_SETTINGS"]))
        sites = write_sites(tmp_path, str(killer))
        make_settings(
            tmp_path,
            results_url=before.results_url,
            s3_endpoint=before.s3_endpoint,
            s3_access_key=before.s3_access_key,
            s3_secret_key=before.s3_secret_key,
            s3_bucket=before.s3_bucket,
            mlflow_url=before.mlflow_url,
            sites_file=str(sites),
        )
        env = {**pipeline_home.env, "TRAINYARD_SETTINGS": str(tmp_path / "settings.toml")}
        home = AirflowHome(folder=tmp_path, env=env)
        ran = run_dag(home, "scaling_study", dataset="synthetic", repeats=1, steps=12)
        assert ran["state"] == "failed"
        assert ran["tasks"]["report[-1]"] == "success"
        assert ran["tasks"]["study_complete[-1]"] == "upstream_failed"
        studies = ask(home, "studies_recent", limit=50)
        (study,) = [row for row in studies if row["dag_run_id"] == ran["run_id"]]
        assert (study["stored_runs"], study["completed_runs"]) == (4, 2)
        assert study["status"] == "failed"
        assert "rank 1 was killed" in Path(study["report_path"]).read_text()


def test_parsing_is_quick(settings_file):
    """What the scheduler does again and again, and every task once: no heavy library is loaded."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import nightly_benchmark;"
        "heavy = {'pandas', 'numpy', 'matplotlib', 'scipy', 'mlflow', 'minio', 'torch', 'jinja2'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "dags")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert loaded <= {"jinja2"}, "jinja2 is Airflow's own; the rest would be ours"
