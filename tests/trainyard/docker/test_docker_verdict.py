"""Every combination of what engine, wrapper and run folder can say about a run's containers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainyard.backends.base import State
from trainyard.backends.folder import Cancelled
from trainyard.docker.engine import Container
from trainyard.docker.files import Ended, Planned
from trainyard.docker.verdict import Part, observation

PLANNED = Planned(
    names=("a",),
    spec_id="s",
    image="trainyard/trainer:dev",
    image_id="sha256:1",
    image_digest="sha256:1",
    memory_bytes=1 << 30,
    at=100.0,
)
ENDED = Ended(
    name="a",
    container_id="c",
    image_id="sha256:1",
    status="exited",
    exit_code=0,
    oom_killed=False,
    finished_at="2026-11-22T05:00:00.123456789Z",
)
GOOD = Part(name="a", ended=ENDED, begun=True, reported=True, code=0)
REQUEST = Cancelled(why="the user asked", at=1.0)


def container(status: str) -> Container:
    return Container(
        id="c",
        name="a",
        image_id="sha256:1",
        labels={},
        status=status,
        exit_code=0,
        oom_killed=False,
        error="",
        created_at="",
        started_at="",
        finished_at="",
    )


def ended(code: int, **changes) -> Ended:
    return replace(ENDED, exit_code=code, **changes)


def seen(*parts: Part, request: Cancelled | None = None, has_result: bool = False):
    return observation(PLANNED, parts, request, has_result=has_result)


def test_both_sources_agree_on_a_good_end():
    found = seen(GOOD)
    assert (found.state, found.exit_code, found.started_at) == (State.EXITED, 0, 100.0)


def test_nothing_made_yet_is_not_started_and_cancelled_once_somebody_asked():
    nothing = Part(name="a")
    assert seen(nothing).state is State.NOT_STARTED
    assert seen(nothing, request=REQUEST).state is State.CANCELLED


@pytest.mark.parametrize("status", ["created", "running", "paused", "restarting", "removing"])
def test_what_is_not_over_is_running(status):
    found = seen(Part(name="a", present=container(status)))
    assert (found.state, found.detail) == (State.RUNNING, f"container a is {status}")


@pytest.mark.parametrize(
    ("part", "state", "words"),
    [
        (replace(GOOD, reported=False), State.LOST, "the engine says 0, but its wrapper left no"),
        (replace(GOOD, code=3), State.LOST, "its wrapper wrote 3, the engine says 0"),
        (replace(GOOD, code=None), State.LOST, "its wrapper wrote None, the engine says 0"),
        (replace(GOOD, ended=ended(1)), State.LOST, "its wrapper wrote 0, the engine says 1"),
        (replace(GOOD, ended=None), State.LOST, "its wrapper wrote exit code 0"),
        (replace(GOOD, ended=None, reported=False), State.LOST, "left no exit code"),
        (replace(GOOD, ended=ended(137), reported=False), State.LOST, "the engine was restarted"),
        (replace(GOOD, ended=ended(143), reported=False), State.LOST, "docker kill"),
        (replace(GOOD, ended=ended(255), reported=False), State.LOST, "the engine was restarted"),
        (replace(GOOD, ended=ended(72), reported=False), State.EXITED, "gave up with exit code 72"),
        (replace(GOOD, ended=ended(1), code=1), State.EXITED, "container a: exit code 1"),
        (replace(GOOD, ended=ended(137), code=137), State.EXITED, "by its time limit or a person"),
        (
            replace(GOOD, ended=ended(143), code=143, told_to_end=True),
            State.LOST,
            "told to end from outside",
        ),
        (
            replace(GOOD, ended=ended(1, oom_killed=True), code=1),
            State.KILLED,
            "ran out of memory (its limit of 1073741824 bytes)",
        ),
        (
            replace(GOOD, ended=ended(137, oom_killed=True), reported=False),
            State.KILLED,
            "ran out of memory",
        ),
        (
            replace(GOOD, begun=False, reported=False, ended=ended(127, error="no bash")),
            State.EXITED,
            "could not be started: no bash",
        ),
        (
            replace(GOOD, begun=False, reported=False, ended=ended(0, error="an odd engine")),
            State.LOST,
            "the engine says 0, but its wrapper left no",
        ),
    ],
)
def test_anything_less_is_no_success(part, state, words):
    found = seen(part)
    assert (found.state, words in found.detail) == (state, True), found.detail
    assert (found.state, found.exit_code) != (State.EXITED, 0)
    assert seen(part, request=REQUEST, has_result=True).state is State.CANCELLED


def test_memory_that_ran_out_for_a_helper_of_a_run_that_ended_well_is_no_failure():
    assert seen(replace(GOOD, ended=ended(0, oom_killed=True))).exit_code == 0


def test_what_was_asked_to_end_completed_only_with_its_result():
    assert seen(GOOD, request=REQUEST).state is State.CANCELLED
    assert seen(GOOD, request=REQUEST, has_result=True).state is State.EXITED


class TestSeveral:
    SECOND = replace(GOOD, name="b")

    def test_all_must_end_well(self):
        assert seen(GOOD, self.SECOND).exit_code == 0
        assert seen(GOOD, Part(name="b", present=container("running"))).state is State.RUNNING
        assert seen(GOOD, Part(name="b")).state is State.RUNNING, "the next try makes it"

    def test_one_that_vanished_loses_the_run_while_others_go_on(self):
        gone = Part(name="b", begun=True)
        assert seen(Part(name="a", present=container("running")), gone).state is State.LOST

    def test_the_cause_is_named_and_not_the_rank_that_lost_its_peer(self):
        peer = replace(GOOD, ended=ended(1), code=1)
        starved = replace(self.SECOND, ended=ended(137, oom_killed=True), reported=False)
        assert "container b ran out of memory" in seen(peer, starved).detail
        later = ended(2, finished_at="2026-11-22T05:00:09Z")
        assert (
            "container a: exit code 1"
            in seen(peer, replace(self.SECOND, ended=later, code=2)).detail
        )
