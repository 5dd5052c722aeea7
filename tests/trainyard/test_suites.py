"""Suites: complete plans, equal for equal arguments, refused with the fix when impossible."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.runs import site
from trainer.contract import Control, Dataset, Precision, Profiler, Scaling, dumps, loads
from trainyard.errors import ConfigurationError
from trainyard.form import study_parameters
from trainyard.presets import PRESETS, Preset, StudyParameters
from trainyard.suites import MOST_RUNS, StudyPlan, scaling, single

DIGEST = "0" * 64
BASE = replace(PRESETS[Preset.DEMO](), dataset_digest=DIGEST)


def names(plan: StudyPlan) -> Counter[str]:
    return Counter(run.spec.name for run in plan.runs)


class TestScaling:
    def test_the_demo_is_twelve_runs(self):
        assert names(scaling(BASE, 1)) == {
            "strong-b64-n1": 3,
            "strong-b64-n2": 3,
            "weak-b128-n2": 3,
            "base-b64-n1": 3,
        }

    def test_the_one_rank_run_that_both_modes_need_is_planned_once(self):
        shared = [run for run in scaling(BASE, 1).runs if run.spec.ranks == 1]
        assert {run.spec.name for run in shared} == {"strong-b64-n1", "base-b64-n1"}

    def test_one_rank_runs_with_other_batches_are_all_planned(self):
        plan = scaling(replace(BASE, per_rank_batch=32), 1)
        one_rank = {run.spec.name for run in plan.runs if run.spec.ranks == 1}
        assert one_rank == {"strong-b64-n1", "weak-b32-n1", "base-b64-n1", "base-b32-n1"}

    def test_strong_holds_the_global_batch_and_weak_the_per_rank_batch(self):
        plan = scaling(replace(BASE, ranks=(1, 2, 4), global_batches=(64, 128)), 1)
        for run in plan.runs:
            spec = run.spec
            if spec.scaling is Scaling.STRONG:
                assert spec.global_batch in {64, 128}
            if spec.scaling is Scaling.WEAK:
                assert spec.per_rank_batch == 64
            assert spec.global_batch == spec.per_rank_batch * spec.ranks

    def test_the_base_has_no_ddp_and_no_sync_control(self):
        base = [run.spec for run in scaling(BASE, 1).runs if run.spec.name.startswith("base")]
        assert base
        assert all(not spec.distributed and spec.ranks == 1 for spec in base)
        assert all(spec.controls == (Control.SYNTHETIC_INPUT,) for spec in base)

    def test_without_the_base(self):
        plan = scaling(replace(BASE, base_without_ddp=False), 1)
        assert all(run.spec.distributed for run in plan.runs)

    def test_every_block_holds_each_configuration_once_and_repeats_have_their_own_seeds(self):
        plan = scaling(replace(BASE, base_seed=40), 5)
        by_block = [[run for run in plan.runs if run.block == block] for block in range(3)]
        for block, runs in enumerate(by_block):
            assert sorted(run.spec.config_id for run in runs) == sorted(
                {run.spec.config_id for run in plan.runs}
            )
            assert {run.spec.seed for run in runs} == {40 + block}
            assert {run.repeat for run in runs} == {block}
        assert [run.block for run in plan.runs] == sorted(run.block for run in plan.runs)

    def test_blocks_are_shuffled_apart_and_the_seed_repeats_the_order(self):
        parameters = replace(BASE, ranks=(1, 2, 4, 8), repeats=6)
        plan = scaling(parameters, 7)
        orders = {
            tuple(run.spec.name for run in plan.runs if run.block == block) for block in range(6)
        }
        assert len(orders) > 1
        assert plan == scaling(parameters, 7)
        assert [run.spec.name for run in scaling(parameters, 8).runs] != [
            run.spec.name for run in plan.runs
        ]

    @given(
        ranks=st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1),
        repeats=st.integers(1, 4),
        seed=st.integers(0, 2**32 - 1),
        modes=st.sets(st.sampled_from([Scaling.STRONG, Scaling.WEAK]), min_size=1),
        per_rank=st.sampled_from([8, 64]),
    )
    def test_any_plan_has_each_work_once_per_repeat(self, ranks, repeats, seed, modes, per_rank):
        parameters = replace(
            BASE,
            ranks=tuple(sorted(ranks)),
            repeats=repeats,
            modes=tuple(sorted(modes)),
            per_rank_batch=per_rank,
        )
        plan = scaling(parameters, seed)
        work = Counter(
            replace(run.spec, name="any", scaling=Scaling.NONE).spec_id for run in plan.runs
        )
        assert set(work.values()) == {1}
        assert {run.spec.ranks for run in plan.runs} == ranks
        assert len(plan.runs) % repeats == 0

    def test_a_plan_survives_the_file(self):
        plan = scaling(BASE, 3)
        assert loads(StudyPlan, dumps(plan)) == plan

    def test_more_runs_than_airflow_maps_are_refused(self):
        with pytest.raises(ConfigurationError, match=f"at most {MOST_RUNS} times"):
            scaling(replace(BASE, repeats=400), 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("batch", "ranks", "near"),
        [(65, 2, "64 or 66"), (100, 8, "96 or 104"), (2, 4, "that can: 4, or leave")],
    )
    def test_a_batch_that_ranks_do_not_divide_names_the_nearest(self, batch, ranks, near):
        with pytest.raises(ConfigurationError, match=f"{batch} cannot be split over {ranks}") as e:
            scaling(replace(BASE, ranks=(1, ranks), global_batches=(batch,)), 1)
        assert near in str(e.value)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"ranks": ()}, "ranks is empty"),
            ({"ranks": (1, 1)}, "names a value twice"),
            ({"ranks": (0,)}, "ranks = 0"),
            ({"global_batches": (-1,)}, "global_batches = -1"),
            ({"repeats": 0}, "repeats = 0"),
            ({"per_rank_batch": 0}, "per_rank_batch = 0"),
            ({"modes": (Scaling.NONE,)}, "choose from strong, weak"),
            ({"steps": 5}, "give exactly one"),
            ({"epochs": 0}, "give exactly one"),
        ],
    )
    def test_parameters_that_plan_nothing(self, changes, words):
        with pytest.raises(ConfigurationError, match=words):
            replace(BASE, **changes)


class TestSingle:
    def test_is_one_run_without_controls(self):
        (run,) = single(replace(BASE, ranks=(2,), repeats=9)).runs
        assert (run.spec.ranks, run.spec.per_rank_batch, run.spec.global_batch) == (2, 64, 128)
        assert run.spec.controls == ()
        assert run.label == "run n=2 batch=128 repeat 1"


class TestForm:
    def test_an_empty_form_is_the_preset(self, tmp_path):
        empty = {
            "preset": "demo",
            "ranks": None,
            "modes": [],
            "model": None,
            "title": "",
            "site": "x",
        }
        found = study_parameters(empty, site(tmp_path), dataset_digest=DIGEST)
        assert found == BASE

    def test_values_override_the_preset(self, tmp_path):
        values = {
            "preset": "standard",
            "dataset": "cifar10",
            "ranks": [1, 4],
            "precision": "bf16",
            "epochs": 2,
            "controls": ["none"],
            "modes": ["weak"],
        }
        found = study_parameters(values, site(tmp_path), dataset_digest=DIGEST)
        assert (found.preset, found.dataset) == (Preset.STANDARD, Dataset.CIFAR10)
        assert (found.ranks, found.modes) == ((1, 4), (Scaling.WEAK,))
        assert (found.epochs, found.steps) == (2, 0)
        assert found.precision is Precision.BF16
        assert found.controls == ()

    def test_a_preset_leaves_out_ranks_that_the_site_does_not_take(self, tmp_path):
        found = study_parameters(
            {"preset": "standard"}, site(tmp_path, largest_ranks=4), dataset_digest=DIGEST
        )
        assert found.ranks == (1, 2, 4)

    def test_chosen_ranks_are_never_left_out(self, tmp_path):
        found = study_parameters(
            {"ranks": [1, 64]}, site(tmp_path, largest_ranks=4), dataset_digest=DIGEST
        )
        assert found.ranks == (1, 64)

    def test_a_version_is_its_digest(self, tmp_path):
        found = study_parameters({"dataset": "digits@v2"}, site(tmp_path), dataset_digest=DIGEST)
        assert (found.dataset, found.dataset_digest) == ("digits", DIGEST)

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"preset": "huge"}, "preset = 'huge'; choose from demo, standard, thorough"),
            ({"dataset": "imagenet"}, "dataset = 'imagenet'; choose from digits, cifar10"),
            ({"model": "vgg"}, "model = 'vgg'"),
            ({"precision": "int8"}, "precision = 'int8'; choose from fp32, bf16, fp16"),
            ({"ranks": ["two"]}, "'two' must be a whole number"),
            ({"controls": ["magic"]}, "controls = 'magic'"),
        ],
    )
    def test_unknown_values_name_the_choices(self, tmp_path, values, words):
        with pytest.raises(ConfigurationError, match=words):
            study_parameters(values, site(tmp_path), dataset_digest=DIGEST)


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_plans(preset):
    parameters = replace(PRESETS[preset](), dataset_digest=DIGEST)
    plan = scaling(parameters, 1)
    assert isinstance(parameters, StudyParameters)
    assert parameters.preset is preset
    measured = Counter(run.spec.name for run in plan.runs if run.spec.profiler is Profiler.NONE)
    assert set(measured.values()) == {parameters.repeats}
    assert len(plan.runs) - measured.total() == (parameters.profiler is not Profiler.NONE)
