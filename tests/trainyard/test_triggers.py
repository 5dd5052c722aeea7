"""``RunTrigger``: waits without blocking, relays what the run says, kills only when it should."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import trainers
from tests.fakes.airflow_context import TaskInstance
from tests.fakes.runs import site
from trainer.contract import Dataset
from trainyard.backends import State, claims, folder, open_backend
from trainyard.backends.identity import Claim, TaskIdentity
from trainyard.launch import launch
from trainyard.presets import PRESETS, Preset
from trainyard.runlog import READ_BYTES, Follower, describe, tail
from trainyard.study import make_study, write_study
from trainyard.triggers.run import MOST_LINES, RunTrigger


class Scene:
    """A started run and triggers that wait for it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.study = make_study(
            "single",
            replace(PRESETS[Preset.DEMO](), dataset=Dataset.SYNTHETIC),
            site(base, str(base / "stand-in")),
            identity=TaskIdentity(dag_id="study", dag_run_id="manual__1", task_id="plan"),
            task_id="run_on_cpu",
            in_study=False,
        )
        self.plan = str(write_study(self.study))
        self.paths = self.study.run(0).paths
        self.backend = open_backend(self.study.site)

    def start(self, body: str) -> None:
        trainers.trainer(self.base, body)
        spec = self.study.plan.runs[0].spec
        self.backend.start(launch(spec, self.study.site, self.paths), self.paths, spec)

    def trigger(self, *, seconds: float = 60, owner: int = 1) -> RunTrigger:
        made = RunTrigger(
            plan=self.plan,
            run_id=self.paths.run_id,
            deadline=time.time() + seconds,
            owner=owner,
            poll_interval_s=0.02,
        )
        made.task_instance = TaskInstance()
        return made


@pytest.fixture
def scene(tmp_path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.backend.sweep(made.paths)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What a trigger writes to the task's log."""
    lines: list[str] = []

    class Log:
        def info(self, text: str, *arguments: object) -> None:
            lines.append(text % arguments)

    monkeypatch.setattr(RunTrigger, "log", Log())
    return lines


def events(trigger: RunTrigger) -> list[dict]:
    """Run the trigger to its end, as the triggerer does."""

    async def collect() -> list[dict]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def test_another_triggerer_can_make_it_again(scene):
    from airflow.sdk.module_loading import import_string

    path, arguments = scene.trigger().serialize()
    again = import_string(path)(**arguments)
    assert again.serialize() == (path, arguments)
    assert path == "trainyard.triggers.run.RunTrigger"


class TestRun:
    def test_yields_once_when_the_run_has_ended_and_returns(self, scene):
        scene.start("sleep 0.2; exit 3")
        assert events(scene.trigger()) == [
            {"run_id": scene.paths.run_id, "state": "exited", "timed_out": False}
        ]

    def test_a_run_that_is_over_already(self, scene):
        scene.start(trainers.OK)
        assert events(scene.trigger())[0]["state"] == "exited"

    def test_after_the_deadline_it_reports_and_leaves_the_run_to_the_operator(self, scene):
        scene.start(trainers.SLEEPS)
        (event,) = events(scene.trigger(seconds=0.1))
        assert event == {"run_id": scene.paths.run_id, "state": "running", "timed_out": True}
        assert scene.backend.observe(scene.paths).state is State.RUNNING

    def test_a_run_that_ended_before_the_deadline_was_looked_at_has_not_timed_out(self, scene):
        scene.start(trainers.OK)
        while not scene.paths.exit_code.exists():
            time.sleep(0.01)
        assert events(scene.trigger(seconds=-1))[0]["timed_out"] is False

    def test_unknown_is_waited_for_not_decided(self, scene, monkeypatch):
        from trainyard.backends import Observation
        from trainyard.backends.process import ProcessBackend

        answers = iter([State.UNKNOWN] * 5 + [State.EXITED])
        monkeypatch.setattr(
            ProcessBackend, "observe", lambda self, paths: Observation(state=next(answers))
        )
        assert events(scene.trigger())[0]["state"] == "exited"

    def test_the_loop_is_not_blocked_by_a_slow_file_system(self, scene, monkeypatch):
        from trainyard.backends.process import ProcessBackend

        look = ProcessBackend.observe

        def slow(self, paths):
            time.sleep(0.3)
            return look(self, paths)

        monkeypatch.setattr(ProcessBackend, "observe", slow)
        scene.start(trainers.OK)
        gaps: list[float] = []

        async def both() -> None:
            async def tick() -> None:
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(0.01)
                    gaps.append(time.monotonic() - began)

            ticking = asyncio.create_task(tick())
            async for _ in scene.trigger().run():
                pass
            ticking.cancel()

        asyncio.run(both())
        assert len(gaps) > 5
        assert sorted(gaps)[len(gaps) // 2] < 0.15

    def test_relays_what_the_run_says_until_its_end(self, scene, said):
        events_ = [
            {"event": "phase", "name": "train"},
            {
                "event": "window",
                "kind": "train",
                "index": 0,
                "steps": 20,
                "images": 1280,
                "seconds_by_rank": [2.0, 4.0],
            },
            {
                "event": "epoch",
                "index": 1,
                "seconds": 3.5,
                "train_loss": 0.25,
                "train_accuracy": 0.9,
                "test_accuracy": None,
            },
        ]
        written = "\n".join(f"echo '{json.dumps(event)}' >> metrics.jsonl" for event in events_)
        scene.start(f"{written}\necho 'a warning' >&2\nexit 0")
        events(scene.trigger())
        assert said == [
            "phase train",
            "window train 0: 320.0 image/s, 200.0 ms/step",
            "epoch 1: 3.50 s, loss 0.2500, train accuracy 0.9000",
            "a warning",
        ]

    def test_a_flood_of_output_is_bounded(self, scene, said):
        scene.start("seq 1 100000 >&2; exit 0")
        while not scene.paths.exit_code.exists():
            time.sleep(0.01)
        events(scene.trigger())
        assert len(said) == MOST_LINES + 1
        assert "more lines in" in said[-1]


class TestOnKill:
    @pytest.fixture
    def api(self, monkeypatch):
        """Airflow's answer to which state the task is in."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        asked: list[dict] = []
        answer = {"state": "failed"}

        def get_task_states(**question):
            asked.append(question)
            return {"manual__1": {"run_on_cpu_0": answer["state"]}}

        monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))
        return answer, asked

    def kill(self, trigger: RunTrigger) -> None:
        asyncio.run(trigger.on_kill())

    @pytest.mark.parametrize("state", ["failed", "success", "scheduled", None])
    def test_a_person_killed_marked_or_cleared_the_task(self, scene, api, state):
        api[0]["state"] = state
        scene.start(trainers.SLEEPS)
        self.kill(scene.trigger())
        assert scene.backend.observe(scene.paths).state is State.CANCELLED

    def test_asks_about_its_own_mapped_task(self, scene, api):
        scene.start(trainers.SLEEPS)
        self.kill(scene.trigger())
        assert api[1] == [
            {
                "dag_id": "study",
                "task_ids": ["run_on_cpu"],
                "run_ids": ["manual__1"],
                "map_index": 0,
            }
        ]

    def test_a_trigger_that_was_handed_to_another_triggerer_kills_nothing(self, scene, api):
        api[0]["state"] = "deferred"
        scene.start(trainers.SLEEPS)
        self.kill(scene.trigger())
        assert scene.backend.observe(scene.paths).state is State.RUNNING

    def test_a_run_that_a_later_try_adopted_is_left_alone(self, scene, api):
        api[0]["state"] = "running"
        scene.start(trainers.SLEEPS)
        later = TaskIdentity(
            dag_id="study", dag_run_id="manual__1", task_id="run_on_cpu", map_index=0, try_number=2
        )
        claims.take(scene.paths, Claim(plan=scene.plan, index=0, task=later))
        self.kill(scene.trigger(owner=1))
        assert scene.backend.observe(scene.paths).state is State.RUNNING

    def test_a_run_on_another_host_is_named_not_raised(self, scene, api):
        from trainer.contract import dumps, loads
        from trainyard.backends.procfs import ProcessIdentity

        scene.start(trainers.SLEEPS)
        identity = loads(ProcessIdentity, scene.paths.process.read_text())
        folder.write_once(scene.paths.process, dumps(replace(identity, host="elsewhere")))
        self.kill(scene.trigger())
        assert scene.paths.cancelled.exists(), "the wish is on record"


class TestFollower:
    def test_gives_whole_lines_once(self, tmp_path):
        path = tmp_path / "log"
        follower = Follower(path=path)
        assert follower.lines() == []
        path.write_text("one\ntwo\nthr")
        assert follower.lines() == ["one", "two"]
        assert follower.lines() == []
        with path.open("a") as stream:
            stream.write("ee\n")
        assert follower.lines() == ["three"]

    def test_reads_a_bounded_amount_and_goes_on_from_there(self, tmp_path):
        path = tmp_path / "log"
        path.write_text("".join(f"{n:09d}\n" for n in range(20_000)))
        follower = Follower(path=path)
        first = follower.lines()
        assert len(first) == READ_BYTES // 10
        rest = []
        while found := follower.lines():
            rest += found
        assert first + rest == [f"{n:09d}" for n in range(20_000)]

    def test_an_endless_line_does_not_stop_it(self, tmp_path):
        path = tmp_path / "log"
        path.write_text("x" * (2 * READ_BYTES + 5) + "\nend\n")
        follower = Follower(path=path)
        assert follower.lines() == ["x" * READ_BYTES]
        assert follower.lines() == ["x" * READ_BYTES]
        assert follower.lines() == ["xxxxx", "end"]
        assert follower.lines() == []

    def test_broken_bytes_are_shown_not_raised(self, tmp_path):
        path = tmp_path / "log"
        path.write_bytes(b"\xff\xfe\n")
        assert Follower(path=path).lines() == ["\ufffd\ufffd"]


def test_tail_starts_at_a_line(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    assert tail(path, 20) == "line 98\nline 99\n"
    assert tail(path, 1 << 20) == path.read_text()
    assert tail(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            '{"event": "window", "kind": "train", "index": 2, "steps": 20, "images": 1280, '
            '"seconds_by_rank": [2.0, 4.0]}',
            "window train 2: 320.0 image/s, 200.0 ms/step",
        ),
        ('{"event": "phase", "name": "data"}', "phase data"),
        ('{"event": "result", "status": "completed"}', ""),
        ('{"event": "window"}', '{"event": "window"}'),
        ("not json", ""),
        ("[1]", ""),
    ],
)
def test_events_in_words(line, words):
    assert describe(line) == words
