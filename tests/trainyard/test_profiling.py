"""Around a profile: pairs of runs, missing traces, suggestions as specs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.fakes.runs import site
from trainer.contract import Control, Precision, Profiler, RunSpec, Scaling, Stall
from trainyard.backends.identity import TaskIdentity
from trainyard.errors import ConfigurationError, ProfileError
from trainyard.paths import RunPaths
from trainyard.presets import PRESETS, Preset
from trainyard.profiling.collect import has_profiles
from trainyard.profiling.pairs import overhead_of, told, work_of
from trainyard.profiling.sections import tried_sentence
from trainyard.profiling.traces import trace_files
from trainyard.profiling.tryout import TRIED, changed, changed_study
from trainyard.study import make_study, plan_path, write_study
from trainyard.suites import profile, scaling

DIGEST = "0" * 64
BASE = replace(
    PRESETS[Preset.DEMO](), dataset_digest=DIGEST, epochs=0, steps=100, profiler=Profiler.NSYS
)
SPEC = RunSpec(name="watched", dataset_digest=DIGEST, ranks=2, global_batch=128, steps=100)


def pairs(**changes):
    return profile(replace(BASE, **changes), 7).runs


class TestPlan:
    def test_every_block_holds_the_same_work_with_and_without_the_profiler(self):
        runs = pairs(stall=Stall.INPUT, stall_ms=5.0)
        assert len(runs) == 6
        for block in range(3):
            pair = {run.spec.profiler: run.spec for run in runs if run.block == block}
            assert set(pair) == {Profiler.NONE, Profiler.NSYS}
            plain, watched = pair[Profiler.NONE], pair[Profiler.NSYS]
            assert plain.seed == watched.seed == block
            assert work_of(plain) == work_of(watched)
            assert plain.controls == (Control.SYNTHETIC_INPUT, Control.NO_SYNC)
            assert watched.controls == ()
            assert plain.stall is watched.stall is Stall.INPUT

    def test_the_order_within_a_block_is_drawn(self):
        runs = pairs(repeats=8)
        firsts = Counter(run.spec.profiler for run in runs[::2])
        assert len(firsts) == 2
        assert runs == pairs(repeats=8)

    def test_counters_come_with_a_timeline(self):
        runs = pairs(profiler=Profiler.NCU, ranks=(1,), repeats=1)
        assert {run.spec.profiler for run in runs} == {
            Profiler.NONE, Profiler.TORCH, Profiler.NCU,
        }  # fmt: skip

    @pytest.mark.parametrize(("steps", "window"), [(100, 30), (40, 18), (23, 1)])
    def test_a_timed_window_fits_before_the_captured_steps(self, steps, window):
        assert {run.spec.window_steps for run in pairs(steps=steps)} == {window}

    def test_a_run_too_short_to_time_is_refused(self):
        with pytest.raises(ConfigurationError, match="give 23 at least"):
            pairs(steps=22)

    def test_without_a_profiler_there_is_nothing_to_plan(self):
        with pytest.raises(ConfigurationError, match="choose torch, nsys or ncu"):
            pairs(profiler=Profiler.NONE)

    def test_other_work_is_told_apart(self):
        assert work_of(SPEC) != work_of(replace(SPEC, loader_workers=2))

    def test_a_study_profiles_its_largest_configuration_last(self):
        plain = scaling(replace(BASE, profiler=Profiler.NONE), 1).runs
        runs = scaling(BASE, 1).runs
        assert runs[:-1] == plain
        last = runs[-1]
        assert (last.spec.profiler, last.spec.ranks) == (Profiler.NSYS, 2)
        assert last.spec.scaling is Scaling.NONE
        assert last.block == 3
        assert any(work_of(run.spec) == work_of(last.spec) for run in plain)

    def test_a_study_too_short_for_its_profile_is_refused(self):
        with pytest.raises(ConfigurationError, match="profiler = 'none' for a study without"):
            scaling(replace(BASE, steps=20), 1)

    def test_nightly_presets_profile_and_the_demo_does_not(self):
        found = {preset: make().profiler for preset, make in PRESETS.items()}
        assert found == {
            Preset.DEMO: Profiler.NONE,
            Preset.STANDARD: Profiler.TORCH,
            Preset.THOROUGH: Profiler.TORCH,
        }


class TestTraces:
    @pytest.fixture
    def paths(self, tmp_path):
        made = RunPaths(root=tmp_path, run_id="run-1")
        made.profiles.mkdir(parents=True)
        return made

    @pytest.mark.parametrize(
        ("profiler", "name"),
        [
            (Profiler.TORCH, "rank{}.pt.trace.json.gz"),
            (Profiler.NSYS, "rank{}.sqlite"),
        ],
    )
    def test_every_rank_in_order(self, paths, profiler, name):
        spec = replace(SPEC, ranks=12, global_batch=768, profiler=profiler)
        for rank in range(12):
            (paths.profiles / name.format(rank)).write_text("x")
        found = trace_files(paths, spec)
        assert [path.name for path in found] == [name.format(rank) for rank in range(12)]

    def test_a_missing_rank_is_named(self, paths):
        (paths.profiles / "rank0.sqlite").write_text("x")
        with pytest.raises(ProfileError, match=r"1 of 2 ranks left no profile \(ranks 1\)") as info:
            trace_files(paths, replace(SPEC, profiler=Profiler.NSYS))
        assert "profiler = 'torch'" in str(info.value)
        assert "on a file system that all of them share" in str(info.value)

    def test_many_missing_ranks_are_counted(self, paths):
        spec = replace(SPEC, ranks=64, global_batch=4096, profiler=Profiler.TORCH)
        with pytest.raises(ProfileError, match="0, 1, 2, 3, 4, 5, 6, 7 and 56 more"):
            trace_files(paths, spec)

    def test_an_empty_file_is_no_profile(self, paths):
        for rank in (0, 1):
            (paths.profiles / f"rank{rank}.sqlite").write_text("x" * (1 - rank))
        with pytest.raises(ProfileError, match=r"profiles of ranks 1 are empty.*profile_steps"):
            trace_files(paths, replace(SPEC, profiler=Profiler.NSYS))

    def test_what_the_profiler_complained_of_comes_first(self, paths):
        (paths.profiles / "rank1.problem.txt").write_text("nsys left no rank1.nsys-rep\n")
        with pytest.raises(
            ProfileError, match=r"trained, but nsys could not.*rank 1: nsys left no"
        ):
            trace_files(paths, replace(SPEC, profiler=Profiler.NSYS))


class TestOverhead:
    def test_a_pair_has_a_value_and_no_interval(self):
        found = overhead_of([0.1], [0.102], [0.153])
        assert found.outside.value == pytest.approx(0.02)
        assert found.inside.value == pytest.approx(0.5)
        assert (found.outside.low, found.pairs) == (None, 1)
        assert told("x", found.outside) == "x: +2.0 %, n = 1"

    def test_repeats_give_an_interval_around_the_value(self):
        found = overhead_of([0.1, 0.101, 0.099], [0.11, 0.111, 0.109], [0.11, 0.111, 0.109])
        assert found.outside.low < 0.1 < found.outside.high
        assert found.inside.contains(0.0)

    def test_nothing_measured_is_said(self):
        found = overhead_of([], [0.1], [0.2])
        assert found.outside is None
        assert found.pairs == 0
        assert told("steps", found.outside) == "steps: not measured"


class TestSuggestions:
    @pytest.mark.parametrize(
        ("field", "proposed", "value"),
        [
            ("loader_workers", "2", 2),
            ("pin_memory", "true", True),
            ("deterministic", "false", False),
            ("precision", "bf16", Precision.BF16),
        ],
    )
    def test_one_field_changes(self, field, proposed, value):
        found = changed(SPEC, field, proposed)
        assert found == replace(SPEC, **{field: value})

    @pytest.mark.parametrize(("field", "batch"), [("per_rank_batch", 256), ("accumulation", 512)])
    def test_the_global_batch_follows(self, field, batch):
        found = changed(SPEC, field, "128" if field == "per_rank_batch" else "4")
        assert found.global_batch == batch

    @pytest.mark.parametrize(
        ("field", "proposed"), [("speed", "high"), ("loader_workers", "many"), ("precision", "x")]
    )
    def test_what_cannot_be_tried_is_refused(self, field, proposed):
        with pytest.raises(ConfigurationError, match=field):
            changed(SPEC, field, proposed)

    def test_the_changed_plan_stands_beside_the_first(self, tmp_path):
        identity = TaskIdentity(
            dag_id="profile_run", dag_run_id="manual__1", task_id="plan", map_index=-1
        )
        where = site(tmp_path)
        study = make_study(
            "profile", BASE, where, identity=identity, task_id="run_on_cpu", in_study=False
        )
        tried = changed_study(study, "loader_workers", "2", task_id="changed_run_on_cpu")
        assert has_profiles(tried)
        assert all(run.spec.loader_workers == 2 for run in tried.plan.runs)
        before = [run.spec for run in study.plan.runs]
        assert [replace(run.spec, loader_workers=0) for run in tried.plan.runs] == before
        first, second = write_study(study), write_study(tried, TRIED)
        assert first == plan_path(where, "profile_run", "manual__1")
        assert second == first.with_name("tried.json")
        assert study.run(0).paths.run_id != tried.run(0).paths.run_id

    def test_the_outcome_is_one_sentence(self):
        from trainyard.analysis.statistics import ratio

        clear = tried_sentence("a = 2", ratio([20.0, 20.1], [10.0, 10.1]))
        assert clear.startswith("a = 2: 2")
        assert "times the throughput (95 % interval" in clear
        assert "holds 1" not in clear
        assert "holds 1" in tried_sentence("a = 2", ratio([10.0, 10.4], [10.1, 10.2]))
        assert "no run without profiler" in tried_sentence("a = 2", None)
