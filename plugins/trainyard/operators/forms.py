"""Trigger forms: every parameter a person may set, with its meaning, choices, bounds and unit.

An empty optional field means: as the preset has it.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import CronTriggerTimetable, Param

from trainer.contract import Control, Dataset, Model, Precision, Scaling
from trainyard.errors import ConfigurationError
from trainyard.form import NONE
from trainyard.operators.lanes import known_sites
from trainyard.presets import Preset
from trainyard.settings import load_settings

_WHERE, _WHAT, _HOW, _SIZE = "Where", "What", "Training", "How much"
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
            section=_WHERE,
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
            section=_SIZE,
        ),
        "nodes_probed": Param(
            1,
            type="integer",
            minimum=1,
            maximum=1024,
            title="Nodes to probe",
            description="More than one only on a cluster; nodes are then compared with each other.",
            section=_SIZE,
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
            section=_WHERE,
        ),
        "clean_up": Param(
            False,
            type="boolean",
            title="Clean up",
            description="Cancel jobs of Trainyard that no task waits for. Off: only report.",
            section=_WHERE,
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
            section=_WHERE,
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
            section=_WHAT,
        )
    }


def work_form() -> dict[str, Param]:
    """Return what every training run needs to know beside its data."""
    return {
        "model": _choice(
            None, Model, "Network", "resnet18_small trains well on two cores.", section=_WHAT
        ),
        "precision": _choice(
            None, Precision, "Precision", "Arithmetic; fp16 needs a GPU.", section=_HOW
        ),
        "per_rank_batch": _whole(
            "Batch per rank", "Samples per rank and step (weak curve, single runs).", 1, 65536
        ),
        "epochs": _whole("Epochs", "Passes over the training set; instead of steps.", 1, 1000),
        "steps": _whole("Steps", "Optimizer steps; instead of epochs.", 1, 1_000_000),
        "threads_per_rank": _whole("Threads per rank", "OMP_NUM_THREADS of every rank.", 1, 256),
        "loader_workers": _whole("Loader workers", "DataLoader processes per rank.", 0, 64),
        "learning_rate": Param(
            None,
            type=["number", "null"],
            exclusiveMinimum=0,
            maximum=10,
            title="Learning rate",
            description="Peak learning rate. Empty: as the preset has it.",
            section=_HOW,
        ),
        "base_seed": _whole("Seed", "Seed of the first repeat; the next ones add 1.", 0, 2**31 - 1),
    }


def study_form() -> dict[str, Param]:
    """Return what a study varies and how often it measures."""
    return {
        "preset": Param(
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
            section=_SIZE,
        ),
        "ranks": _numbers("Ranks", "Numbers of training processes.", [1, 2, 4, 8], 4096),
        "global_batches": _numbers(
            "Global batches",
            "Samples per step over all ranks, one strong curve each; every number of ranks must "
            "divide them.",
            [64, 128, 256, 512],
            1 << 20,
        ),
        "modes": _several(
            [Scaling.STRONG, Scaling.WEAK],
            "Scaling",
            "strong: global batch fixed. weak: batch per rank fixed.",
        ),
        "controls": _several(
            [*Control, NONE],
            "Controls",
            "Measurements that split the time per step; none leaves them out.",
        ),
        "profiler": _profiler(),
        "repeats": _whole(
            "Repeats", "Independent runs per configuration; 5 or more to compare.", 1, 100, _SIZE
        ),
        "title": Param(
            None,
            type=["string", "null"],
            maxLength=200,
            title="Title",
            description="Title of the report. Empty: made from what is measured.",
            section=_SIZE,
        ),
    }


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
        section=_SIZE,
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
            section=_SIZE,
        )
    }


def _choice(default: str | None, kind: type[Any], title: str, text: str, *, section: str) -> Param:
    return Param(
        default,
        type=["string", "null"],
        enum=[None, *(member.value for member in kind)],
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=section,
    )


def _whole(title: str, text: str, least: int, most: int, section: str = _HOW) -> Param:
    return Param(
        None,
        type=["integer", "null"],
        minimum=least,
        maximum=most,
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=section,
    )


def _numbers(title: str, text: str, examples: list[int], most: int) -> Param:
    return Param(
        None,
        type=["array", "null"],
        # Airflow's form sends what is chosen here as text, whatever the type of the examples.
        items={
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": most,
            "pattern": "^[1-9][0-9]*$",
        },
        uniqueItems=True,
        examples=examples,
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=_SIZE,
    )


def _several(choices: list[Any], title: str, text: str) -> Param:
    values = [str(choice) for choice in choices]
    return Param(
        None,
        type=["array", "null"],
        items={"type": "string", "enum": values},
        uniqueItems=True,
        examples=values,
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=_SIZE,
    )
