"""``TrainOperator`` and ``RunTrigger`` on containers: adopted, watched, ended, and swept up."""

from __future__ import annotations

import time

import pytest

from tests.fakes import trainers
from tests.fakes.docker_runs import docker_site
from tests.trainyard.test_operators import Scene
from tests.trainyard.test_triggers import events, said
from trainyard.backends import State, claims, folder
from trainyard.docker.files import read_planned
from trainyard.errors import RunFailedError, RunLostError

pytestmark = pytest.mark.slow
__all__ = ["said"]  # a fixture


@pytest.fixture
def scene(tmp_path, monkeypatch, shell_image, docker_client):
    monkeypatch.setenv("TRAINYARD_SETTINGS", str(tmp_path / "settings.toml"))
    monkeypatch.setattr("trainyard.ingest._publish", lambda settings, paths, row: row)
    # The result that a good stand-in leaves lies beside its program.
    place = docker_site(tmp_path, shell_image, mounts=(f"{tmp_path}:{tmp_path}",))
    made = Scene(tmp_path, place)
    made.trainer = lambda body: trainers.trainer(tmp_path / "bin", body)
    yield made
    for attempt in range(1, folder.newest_attempt(made.run.paths) + 1):
        made.backend.sweep(made.run.paths.attempt(attempt))
    label = f"trainyard.run_dir={made.run.paths.run_dir}"
    assert not docker_client.containers.list(all=True, filters={"label": label})


def test_a_run_is_deferred_found_again_and_recorded(scene):
    scene.trainer(f"while [ ! -e go ]; do sleep 0.05; done; {scene.good_result()}")
    first = scene.execute()
    assert type(first.trigger).__name__ == "RunTrigger"
    scene.worker_died_before_deferring()
    second = scene.execute(try_number=2)
    assert second.trigger.deadline == first.trigger.deadline
    (scene.run.paths.run_dir / "go").touch()
    scene.until_over()
    assert scene.complete(second, try_number=2) == scene.run.paths.run_id
    assert (scene.row().status, scene.row().launcher) == ("completed", "docker")


def test_the_trigger_relays_what_the_container_says_and_reports_its_end(scene, said):
    scene.trainer("echo said while it trains >&2; sleep 0.5; exit 3")
    deferred = scene.execute()

    (event,) = events(deferred.trigger)
    assert (event["state"], event["timed_out"]) == ("exited", False)
    assert "said while it trains" in said
    with pytest.raises(RunFailedError, match="exit code 3"):
        scene.complete(deferred)


def test_a_run_that_nobody_waits_for_is_ended_before_the_next_one(scene, monkeypatch):
    """The next run may be on another site of the same folder: the run's own backend ends it."""
    from trainyard.backends.identity import TaskIdentity
    from trainyard.operators import abandoned

    scene.trainer(trainers.SLEEPS)
    scene.execute()
    monkeypatch.setattr(abandoned, "state_of", lambda task: "failed")
    other = TaskIdentity(dag_id="other", dag_run_id="r", task_id="t")
    root = scene.run.paths.root
    left_alone = abandoned.end_abandoned(scene.settings, lambda site: None, root, other)
    assert left_alone == []
    assert scene.backend.observe(scene.run.paths).state is State.RUNNING
    ended = abandoned.end_abandoned(scene.settings, abandoned.backend_beside, root, other)
    assert ended == [scene.run.paths.run_id]
    assert scene.row().status == "cancelled"
    assert not list(claims.every(root))


def test_a_container_that_somebody_removed_is_lost_and_run_again(scene):
    scene.trainer("echo up > up; while [ ! -e go ]; do sleep 0.05; done; exit 0")
    deferred = scene.execute()
    paths = scene.run.paths
    end = time.monotonic() + 20
    while not (paths.run_dir / "up").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    scene.backend.engine.remove(read_planned(paths).names[0])
    with pytest.raises(RunLostError, match="removed before its end was recorded"):
        scene.complete(deferred)
    scene.trainer(scene.good_result(attempt=2))
    again = scene.execute(try_number=2)
    if not isinstance(again, str):
        scene.until_over(2)
        assert scene.complete(again, try_number=2) == paths.attempt(2).run_id
    assert [scene.row(number).status for number in (1, 2)] == ["lost", "completed"]
