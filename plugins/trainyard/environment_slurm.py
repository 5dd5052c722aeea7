"""Is a Slurm cluster ready to run on: what ``verify_environment`` checks of a Slurm site."""

from __future__ import annotations

import threading
from pathlib import Path

from trainyard.environment import (
    TRAINER_PATIENCE_S,
    TRAINER_PROBE,
    Checks,
    Finding,
    judge_trainer,
)
from trainyard.errors import ConfigurationError
from trainyard.settings import Settings
from trainyard.sites import Site
from trainyard.slurm.access import Access
from trainyard.slurm.directives import slurm_of
from trainyard.slurm.profile import ClusterProfile, probe
from trainyard.slurm.records import Partition
from trainyard.slurm.shared import check_shared
from trainyard.store import Verdict

_UP = ("idle", "mix", "alloc", "comp")


def cluster_checks(site: Site, access: Access) -> Checks:
    """Return the checks of the cluster behind *site*; what is not as needed is a finding."""
    cluster = _Cluster(site, access)
    # Where commands run elsewhere, so do the nodes' programs: this host need not have them.
    elsewhere = access.remote and site.apptainer is None
    there: Checks = {"trainer": cluster.trainer} if elsewhere else {}
    return {
        **there,
        "slurm controller": cluster.controller,
        "slurm accounting": cluster.accounting,
        "slurm partitions": cluster.partitions,
        "slurm nodes": cluster.nodes,
        "shared run folders": cluster.shared,
    }


class _Cluster:
    """One cluster, asked once for what several checks look at."""

    def __init__(self, site: Site, access: Access) -> None:
        self._site = site
        self._access = access
        self._client = access.client()
        self._known: ClusterProfile | None = None
        self._asking = threading.Lock()

    def _profile(self) -> ClusterProfile:
        with self._asking:  # the checks go on side by side
            if self._known is None:
                self._known = probe(self._client)
            return self._known

    def controller(self, _settings: Settings, _site: Site) -> Finding:
        found = self._profile()
        version = ".".join(f"{part:02}" for part in found.version)
        return Finding(
            verdict=Verdict.PASSED,
            measured=f"Slurm {version}, cluster {found.cluster}, as {found.user}",
            requirement="slurmctld answers, Slurm 20.11 or newer",
        )

    def accounting(self, _settings: Settings, _site: Site) -> Finding:
        found = self._profile()
        return Finding(
            verdict=Verdict.PASSED if found.accounting_answers else Verdict.WARNING,
            measured="slurmdbd answers" if found.accounting_answers else found.plan.why[0],
            requirement="slurmdbd; without it CPU time, memory and energy are not recorded",
            fix="" if found.accounting_answers else "nothing, or ask the administrators for it",
        )

    def partitions(self, _settings: Settings, _site: Site) -> Finding:
        return _partitions(self._site, self._profile())

    def nodes(self, _settings: Settings, _site: Site) -> Finding:
        states = [node.state for node in self._client.sinfo_nodes()]
        up = sum(state.startswith(_UP) and not state.endswith("*") for state in states)
        return Finding(
            verdict=Verdict.PASSED if up else Verdict.FAILED,
            measured=f"{up} of {len(states)} nodes up",
            requirement="1 node up at least",
            fix="" if up else "see `sinfo -R` for why the nodes are down",
        )

    def shared(self, _settings: Settings, _site: Site) -> Finding:
        check_shared(self._access.transport(), Path(self._site.runs_dir))
        return Finding(
            verdict=Verdict.PASSED,
            measured=f"{self._site.runs_dir} is one folder here and there",
            requirement="run folders on a file system shared with the cluster",
        )

    def trainer(self, _settings: Settings, _site: Site) -> Finding:
        command = [self._site.python, "-c", TRAINER_PROBE]
        done = self._access.transport().run(command, timeout=TRAINER_PATIENCE_S)
        return judge_trainer(self._site, done.rc, done.stdout, done.stderr)


def _partitions(site: Site, profile: ClusterProfile) -> Finding:
    """Check that the site's partitions and QOS, those of its tiers too, exist and start jobs."""
    slurm = slurm_of(site)
    texts = [slurm.partition, *(tier.partition for tier in slurm.tiers)]
    named = {name for text in texts for name in text.split(",") if name}
    for name in sorted(named):
        profile.check_partition(name)
    for qos in (slurm.qos, *(tier.qos for tier in slurm.tiers)):
        profile.check_qos(qos)
    used = [one for one in profile.partitions if one.name in named or (not named and one.default)]
    if not used:
        raise ConfigurationError(
            f"the cluster has no default partition; set slurm.partition of site {site.name!r} to "
            f"one of {', '.join(sorted(one.name for one in profile.partitions))}"
        )
    closed = [one.name for one in used if not one.up]
    minutes = slurm.time_limit_min or -(-site.run_timeout_s // 60)
    short = [one.name for one in used if _is_short(one, minutes)]
    fix = f"partitions {', '.join(closed)} start no jobs" if closed else ""
    if short:
        fix = f"time limit {minutes} min is more than {', '.join(short)} allow; lower run_timeout_s"
    return Finding(
        verdict=Verdict.FAILED if fix else Verdict.PASSED,
        measured=", ".join(f"{one.name} ({one.total_nodes} nodes)" for one in used),
        requirement=f"partitions that start jobs of {minutes} min",
        fix=fix,
    )


def _is_short(partition: Partition, minutes: int) -> bool:
    return partition.max_time_s is not None and partition.max_time_s < 60 * minutes
