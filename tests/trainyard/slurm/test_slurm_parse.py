"""Output that is not what the format can produce is an error, never an empty or shorter answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.slurm import hostlist, parse
from trainyard.slurm.errors import GarbageOutputError
from trainyard.slurm.identity import JobId
from trainyard.slurm.parse import FIELD, ROW
from trainyard.slurm.usage import size_bytes

# What Slurm 22.05.8 printed on a two-node cluster, SLURM_TIME_FORMAT=%s.
SHOWN = (
    "JobId=2 ArrayJobId=2 ArrayTaskId=3-9%2 ArrayTaskThrottle=2 JobName=ty-arr UserId=root(0) "
    "GroupId=root(0) MCS_label=N/A Priority=4294901758 Nice=0 Account=(null) QOS=(null) "
    "JobState=PENDING Reason=JobArrayTaskLimit Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 "
    "Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=01:00:00 SubmitTime=1795313611 "
    "StartTime=Unknown EndTime=Unknown Partition=low NodeList= NumNodes=1 Comment=arr  \n"
    "JobId=8 ArrayJobId=2 ArrayTaskId=2 ArrayTaskThrottle=2 JobName=ty-arr UserId=root(0) "
    "JobState=RUNNING Reason=None Requeue=1 Restarts=1 ExitCode=0:0 SubmitTime=1795313611 "
    "StartTime=1795313611 EndTime=1795317211 Partition=low NodeList=n2 Command=/tmp/a b.sh "
    "Comment=x\ny|z JobState=FAILED \n"
    "JobId=5 HetJobId=4 HetJobOffset=1 JobName=ty-het HetJobIdSet=4-5 UserId=root(0) QOS=(null) "
    "JobState=COMPLETED Reason=None Requeue=0 Restarts=0 ExitCode=3:0 SubmitTime=1795313611 "
    "StartTime=1795313613 EndTime=1795313713 Partition=low NodeList=n[1-2]\n"
)


def row(*changes: tuple[int, str]) -> str:
    fields = ["7", "RUNNING", "1795313611", "1795313611", "1795317211", "n1", "low", "(null)"]
    fields += ["root", "None", "ty-x;a|b c", "k|1", ""]
    for index, value in changes:
        fields[index] = value
    return FIELD.join(fields) + ROW + "\n"


def test_a_squeue_row_is_read_whole():
    (record,) = parse.squeue(row())
    assert (record.job_id, record.state, record.name) == (JobId(base=7), "RUNNING", "ty-x;a|b c")
    assert (record.submitted, record.started, record.nodes) == (1795313611, 1795313611, "n1")
    assert (record.qos, record.reason, record.comment) == ("", "", "k|1")


def test_a_newline_in_a_comment_does_no_harm():
    records = parse.squeue(row((11, "two\nlines")) + row((0, "8_[1-3%1]")))
    assert [record.job_id.base for record in records] == [7, 8]
    assert records[0].comment == "two\nlines"


def test_nothing_printed_is_no_row():
    assert parse.squeue("") == []
    assert parse.squeue("\n") == []
    assert parse.sacct("") == []
    assert parse.show_job("") == []


@pytest.mark.parametrize(
    "text",
    [
        "slurm is down for maintenance\n",
        row()[:-10],
        row() + "JOBID NAME\n",
        row((1, "FLYING")),
        row((0, "12 13")),
        row((2, "2026-11-22T02:13:31")),
        row((2, "N/A")),
        row((6, f"a{FIELD}b")),
    ],
)
def test_squeue_output_that_does_not_fit_is_an_error(text):
    with pytest.raises(GarbageOutputError):
        parse.squeue(text)


@given(st.integers(min_value=0))
def test_an_answer_cut_anywhere_but_between_rows_is_an_error(where):
    text = row() + row((0, "8")) + row((0, "9"))
    cut = text[: where % len(text)]
    whole = cut.rstrip("\n")
    if not whole or whole.endswith(ROW):
        assert len(parse.squeue(cut)) == whole.count(ROW)
    else:
        with pytest.raises(GarbageOutputError):
            parse.squeue(cut)


@given(st.text())
def test_no_text_crashes_a_reader(text):
    for read in (parse.squeue, parse.sacct, parse.show_job, parse.show_config, parse.submitted):
        try:
            read(text)
        except GarbageOutputError:
            continue


def test_scontrol_shows_arrays_and_het_components():
    array, element, component = parse.show_job(SHOWN)
    assert array.job_id == JobId(base=2, tasks=((3, 9, 1),), throttle=2)
    assert (array.started, array.exit_code, array.qos) == (None, None, "")
    assert element.job_id == JobId(base=2, task=2)
    assert (element.state, element.restarts, element.comment) == ("RUNNING", 1, "x\ny|z")
    assert component.job_id == JobId(base=4, component=1)
    assert (component.exit_code, component.exit_signal, component.requeue) == (3, 0, False)


@pytest.mark.parametrize("missing", ["SubmitTime=", "JobState=", "Restarts=", "JobName="])
def test_scontrol_output_without_what_is_needed_is_an_error(missing):
    with pytest.raises(GarbageOutputError):
        parse.show_job(SHOWN.replace(missing, "Gone="))


def sacct_row(*fields: str) -> str:
    return "".join(f"{field}{FIELD}" for field in fields) + "\n"


def test_sacct_rows_know_who_cancelled_and_what_code():
    text = sacct_row("7_1", "CANCELLED by 1000", "0:15", "100", "Unknown", "Unknown",
                     "None assigned", "low", "normal", "ty", "name")  # fmt: skip
    (record,) = parse.sacct(text)
    assert (record.state, record.cancelled_by, record.exit_signal) == ("CANCELLED", 1000, 15)
    assert (record.nodes, record.started) == ("", None)
    with pytest.raises(GarbageOutputError):
        parse.sacct(text[:-5])


def test_usage_joins_a_job_with_its_steps():
    text = sacct_row("7", "COMPLETED", "100", "60", "480", "01:02.500", "", "", "billing=8,cpu=8,"
                     "gres/gpu=2", "n1", "name")  # fmt: skip
    text += sacct_row("7.batch", "COMPLETED", "100", "60", "480", "00:01", "1536K", "0", "", "n1",
                      "batch")  # fmt: skip
    text += sacct_row("7.0", "COMPLETED", "100", "59", "480", "01:01", "2.5G", "1200", "", "n1",
                      "python")  # fmt: skip
    (used,) = parse.usage(text)
    assert (used.elapsed_s, used.cpu_s, used.cpu_used_s, used.gpu_s) == (60, 480, 62.5, 120)
    assert (used.max_rss_bytes, used.energy_j) == (int(2.5 * 1024**3), 1200)
    with pytest.raises(GarbageOutputError, match="without its job"):
        parse.usage(text[text.index("7.batch") :])


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("0", 0), ("1536K", 1572864), ("3M", 3 << 20)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert size_bytes(text) == size


def test_config_needs_version_cluster_and_memory():
    text = "ClusterName = c\nSLURM_VERSION = 22.05.8\nMinJobAge = 300 sec\nX = a = b\n"
    assert parse.show_config(text)["X"] == "a = b"
    with pytest.raises(GarbageOutputError, match="SLURM_VERSION"):
        parse.show_config("ClusterName = c\nMinJobAge = 2\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12\n", (12, "")), ("12;alpha\n", (12, "alpha")), ("Welcome!\n12\n", (12, ""))],
)
def test_sbatch_prints_one_job_id(text, expected):
    assert parse.submitted(text) == expected


@pytest.mark.parametrize("text", ["", "Submitted batch job 12\n", "12\n13\n", "12 13"])
def test_other_sbatch_output_is_an_error(text):
    with pytest.raises(GarbageOutputError, match="job id"):
        parse.submitted(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("01:00:00", 3600), ("1-00:00:01", 86401), ("05:00", 300), ("UNLIMITED", None)],
)
def test_durations(text, seconds):
    assert parse.duration_s(text) == seconds


def test_node_lists_are_expanded():
    assert hostlist.expand("n[08-10,12],gpu1,r[1-2]c[1-2]") == (
        *("n08", "n09", "n10", "n12", "gpu1"),
        *("r1c1", "r1c2", "r2c1", "r2c2"),
    )
    assert hostlist.expand("") == ()
    for bad in ("n[1-", "n[a]", "n 1", "n[1-99999999]", "n[1-999][1-999]"):
        with pytest.raises(GarbageOutputError, match="node list"):
            hostlist.expand(bad)
