"""The table of states is complete, and the page about it says the same."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from tests.requirements import need
from trainyard.slurm.errors import GarbageOutputError
from trainyard.slurm.reasons import Hope, known_reasons, pending_reason
from trainyard.slurm.states import STATES, Phase, parse_state

PAGE = Path(__file__).parents[3] / "docs" / "slurm-states.md"
# squeue(1) and sacct(1) of 22.05, and Slurm's job_state_codes page of 24.11.
MAN_PAGES = re.findall(
    r"[A-Z_]+",
    """
    BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY
    PENDING PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED
    SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED TIMEOUT LAUNCH_FAILED POWER_UP_NODE
    RECONFIG_FAIL UPDATE_DB
    """,
)


def test_every_state_of_the_man_pages_is_in_the_table():
    assert sorted(STATES) == sorted(MAN_PAGES)


def test_the_installed_man_page_names_no_other_state():
    page = Path("/usr/share/man/man1/squeue.1.gz")
    need(page.exists(), "squeue's man page (package slurm-client with its documentation)")
    text = gzip.decompress(page.read_bytes()).decode().split("JOB STATE CODES")[-1]
    named = re.findall(r"\\fB([A-Z]{1,3})\s+([A-Z_]+)\\fR", text)
    assert len(named) >= 20, "the page's markup changed"
    assert {(code, name) for code, name in named} <= {
        (rule.code, name) for name, rule in STATES.items()
    }


def test_the_documented_table_is_the_one_in_use():
    form = re.compile(r"\| [A-Z_]+ \| [A-Z–]{1,3} \| ")
    rows = [line for line in PAGE.read_text().splitlines() if form.match(line)]
    documented = {cells[1]: cells[2:] for cells in (re.split(r"\s*\|\s*", row) for row in rows)}
    for name, rule in STATES.items():
        expected = [rule.code or "–", rule.phase, rule.outcome or "–"]
        expected += ["yes" if rule.comes_back else "–", rule.taint or "–", rule.meaning, ""]
        assert documented.pop(name) == expected, f"docs/slurm-states.md: row of {name}"
    assert not documented


def test_every_pending_reason_with_a_row_is_documented():
    text = PAGE.read_text()
    assert [name for name in known_reasons() if name not in text] == []


def test_states_that_claim_an_outcome_are_over_and_the_others_are_not():
    for name, rule in STATES.items():
        assert (rule.outcome is not None) == (rule.phase is Phase.ENDED), name


@pytest.mark.parametrize(
    ("text", "state", "by"),
    [
        ("RUNNING", "RUNNING", None),
        ("CANCELLED by 1000", "CANCELLED", 1000),
        ("CA", "CANCELLED", None),
        ("OUT_OF_ME+", "OUT_OF_MEMORY", None),
        ("COMPLETED,COMPLETING", "COMPLETING", None),
        ("PENDING,REQUEUED", "REQUEUED", None),
    ],
)
def test_states_are_read_in_every_spelling(text, state, by):
    assert parse_state(text) == (state, by)


@pytest.mark.parametrize("text", ["", "DONE", "RUNNING!", "COMP+", "running", "CANCELLED by root"])
def test_other_words_are_no_state(text):
    with pytest.raises(GarbageOutputError, match="job state"):
        parse_state(text)


@pytest.mark.parametrize(
    ("reason", "hope"),
    [
        ("Priority", Hope.WAIT),
        ("None", Hope.WAIT),
        ("", Hope.WAIT),
        ("QOSMaxJobsPerUserLimit", Hope.LIMIT),
        ("QOSMaxCpuPerUserLimit", Hope.LIMIT),
        ("QOSMaxSubmitJobPerUserLimit", Hope.LIMIT),
        ("AssocGrpCpuLimit", Hope.LIMIT),
        ("AssocGrpCPUMinutesLimit", Hope.LIMIT),
        ("AssocMaxJobsLimit", Hope.LIMIT),
        ("MaxGRESPerAccount", Hope.LIMIT),
        ("QOSMaxCpuPerJobLimit", Hope.NEVER),
        ("AssocMaxWallDurationPerJobLimit", Hope.NEVER),
        ("QOSMaxGRESPerNode", Hope.NEVER),
        ("QOSMinGRES", Hope.NEVER),
        ("PartitionTimeLimit", Hope.NEVER),
        ("BadConstraints", Hope.NEVER),
        ("DependencyNeverSatisfied", Hope.NEVER),
        ("JobHeldUser", Hope.HELD),
        ("JobHeldAdmin", Hope.HELD),
        ("launch_failed_requeued_held", Hope.HELD),
        ("job_requeued_in_held_state", Hope.HELD),
        ("ReqNodeNotAvail,_UnavailableNodes:n[1-2]", Hope.BLOCKED),
        ("SomethingOfNextYear", Hope.WAIT),
    ],
)
def test_pending_reasons_say_whether_waiting_helps(reason, hope):
    found = pending_reason(reason)
    assert found.hope is hope
    assert found.fix or hope in {Hope.WAIT, Hope.LIMIT}, "a reason that blocks must name the fix"


def test_every_reason_of_slurms_own_list_has_a_place():
    """Names from the library of the installed Slurm; families cover what has no row."""
    library = Path("/usr/lib/x86_64-linux-gnu/slurm-wlm/libslurmfull.so")
    need(library.exists(), "Slurm's library (package slurm-wlm-basic-plugins)")
    words = set(re.findall(rb"[A-Za-z]{5,40}", library.read_bytes()))
    reasons = [
        word.decode()
        for word in words
        if re.fullmatch(rb"(AssocGrp|AssocMax|QOSGrp|QOSMax|QOSMin)[A-Za-z]+", word)
    ]
    assert len(reasons) > 100
    waited_for = [name for name in reasons if pending_reason(name).hope is Hope.WAIT]
    assert waited_for == [], "limits that would be waited for as if their turn came"
