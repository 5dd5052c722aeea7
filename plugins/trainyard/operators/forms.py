"""Trigger forms: every parameter a person may set, with its meaning, choices, bounds and unit.

An empty optional field means: as the preset has it.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import CronTriggerTimetable, Param

from trainer.contract import Control, Dataset, Model, Precision, Scaling
from trainyard.errors import ConfigurationError
from trainyard.form import NONE
from trainyard.operators.fields import (
    HOW,
    SIZE,
    WHAT,
    WHERE,
    choice,
    count,
    numbers,
    several,
    whole,
)
from trainyard.operators.lanes import known_sites
from trainyard.presets import Preset
from trainyard.settings import load_settings

ALL_SITES = "all"
"""Choice of the reconciliation form."""


def nightly() -> CronTriggerTimetable | None:
    """Return when the nightly benchmark runs, or None where the settings leave it to a person."""
    try:
        cron = load_settings().nightly_schedule
    except ConfigurationError:
        return None
    if not cron:
        return None
    # Switching the DAG on in the afternoon must not start last night's benchmark at once.
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=False)


def site_form() -> dict[str, Param]:
    """Return the choice of a site."""
    chosen, sites = known_sites()
    choices: dict[str, Any] = {"enum": sorted(sites)} if sites else {"minLength": 1}
    return {
        "site": Param(
            chosen,
            type="string",
            title="Site",
            description="Where the work runs; sites are the tables of the site file.",
            section=WHERE,
            **choices,
        )
    }


def probes_form() -> dict[str, Param]:
    """Return how thoroughly nodes are probed, and how many."""
    return {
        "probes": Param(
            "quick",
            type="string",
            enum=["none", "quick", "full"],
            title="Probes",
            description="Quick takes about ten seconds a node, full up to a minute.",
            section=SIZE,
        ),
        "nodes_probed": count(
            1,
            "Nodes to probe",
            "More than one only on a cluster; nodes are then compared with each other.",
            1,
            1024,
            SIZE,
        ),
    }


def reconcile_form() -> dict[str, Param]:
    """Return which Slurm sites to look at, and whether to change anything."""
    _, sites = known_sites()
    slurm = sorted(name for name, site in sites.items() if site.slurm is not None)
    return {
        "site": Param(
            ALL_SITES,
            type="string",
            enum=[ALL_SITES, *slurm],
            title="Site",
            description="Slurm site whose jobs are compared with the waiting tasks.",
            section=WHERE,
        ),
        "clean_up": Param(
            False,
            type="boolean",
            title="Clean up",
            description="Cancel jobs of Trainyard that no task waits for. Off: only report.",
            section=WHERE,
        ),
    }


def tier_form() -> dict[str, Param]:
    """Return the choice of a priority tier; without Slurm sites there is none to choose."""
    _, sites = known_sites()
    tiers = {tier.name: tier for site in sites.values() if site.slurm for tier in site.slurm.tiers}
    ordered = sorted(tiers.values(), key=lambda tier: (-tier.weight, tier.name))
    return {
        # Not an empty text: Airflow's form takes one for a field that is not filled in, and would
        # let nobody trigger.
        "tier": Param(
            None,
            type=["string", "null"],
            enum=[None, *(tier.name for tier in ordered)],
            title="Priority tier",
            description="Slurm sites only: QOS, partition and Airflow priority of the runs. Empty: "
            "as the site has it.",
            section=WHERE,
        )
    }


def dataset_form() -> dict[str, Param]:
    """Return the choice of a data set."""
    return {
        "dataset": Param(
            Dataset.DIGITS.value,
            type="string",
            pattern=f"^({'|'.join(Dataset)})(@(latest|v[1-9][0-9]*))?$",
            examples=[*(member.value for member in Dataset), "digits@latest", "digits@v1"],
            title="Data set",
            description="digits: 1,797 handwritten digits, offline; cifar10: 60,000 photographs, "
            "163 MiB download; synthetic: made on the spot. A version can follow: digits@v1, "
            "digits@latest.",
            section=WHAT,
        )
    }


def work_form() -> dict[str, Param]:
    """Return what every training run needs to know beside its data."""
    return {
        "model": choice(Model, "Network", "resnet18_small trains well on two cores.", WHAT),
        "precision": choice(Precision, "Precision", "Arithmetic; fp16 needs a GPU.", HOW),
        "per_rank_batch": whole(
            "Batch per rank", "Samples per rank and step (weak curve, single runs).", 1, 65536
        ),
        "epochs": whole("Epochs", "Passes over the training set; instead of steps.", 1, 1000),
        "steps": whole("Steps", "Optimizer steps; instead of epochs.", 1, 1_000_000),
        "threads_per_rank": whole("Threads per rank", "OMP_NUM_THREADS of every rank.", 1, 256),
        "loader_workers": whole("Loader workers", "DataLoader processes per rank.", 0, 64),
        "learning_rate": Param(
            None,
            type=["number", "null"],
            exclusiveMinimum=0,
            maximum=10,
            title="Learning rate",
            description="Peak learning rate. Empty: as the preset has it.",
            section=HOW,
        ),
        "base_seed": whole("Seed", "Seed of the first repeat; the next ones add 1.", 0, 2**31 - 1),
    }


def study_form() -> dict[str, Param]:
    """Return what a study varies and how often it measures."""
    return {
        "preset": _preset(),
        "ranks": numbers("Ranks", "Numbers of training processes.", [1, 2, 4, 8], 4096),
        "global_batches": numbers(
            "Global batches",
            "Samples per step over all ranks, one strong curve each; every number of ranks must "
            "divide them.",
            [64, 128, 256, 512],
            1 << 20,
        ),
        "modes": several(
            [Scaling.STRONG, Scaling.WEAK],
            "Scaling",
            "strong: global batch fixed. weak: batch per rank fixed.",
        ),
        "controls": several(
            [*Control, NONE],
            "Controls",
            "Measurements that split the time per step; none leaves them out.",
        ),
        "profiler": _profiler(),
        "repeats": whole(
            "Repeats", "Independent runs per configuration; 5 or more to compare.", 1, 100, SIZE
        ),
        "title": Param(
            None,
            type=["string", "null"],
            maxLength=200,
            title="Title",
            description="Title of the report. Empty: made from what is measured.",
            section=SIZE,
        ),
    }


def _preset() -> Param:
    """Return how much a study measures, unless other fields say otherwise."""
    return Param(
        Preset.DEMO.value,
        type="string",
        enum=[member.value for member in Preset],
        values_display={
            "demo": "demo: 3 short repeats, minutes on two cores",
            "standard": "standard: 5 repeats of 200 steps",
            "thorough": "thorough: 10 repeats, three global batches",
        },
        title="Preset",
        description="How much is measured; every field below overrides one value of it.",
        section=SIZE,
    )


def _profiler() -> Param:
    """Return whether a study is followed by one profiled run."""
    return Param(
        None,
        type=["string", "null"],
        enum=[None, NONE, "torch", "nsys"],
        values_display={NONE: "none: no profile"},
        title="Profile",
        description="Profiles the configuration with most ranks once, after all measured "
        "runs; the report links its verdict. Empty: as the preset has it (demo: none).",
        section=SIZE,
    )


def single_run_form() -> dict[str, Param]:
    """Return how many processes one run has."""
    return {
        "ranks": Param(
            [1],
            type="array",
            items={"type": "integer", "minimum": 1, "maximum": 4096},
            minItems=1,
            maxItems=1,
            title="Ranks",
            description="Number of training processes.",
            section=SIZE,
        )
    }
