"""References, verdicts, fingerprints, differences, learning and the page of a system."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from tests import goldens
from tests.trainyard.probing.reports import MEASUREMENTS, measurement, report
from trainyard.errors import ConfigurationError
from trainyard.probing.fingerprint import diff, fingerprint
from trainyard.probing.judge import Judgement, defects, judge
from trainyard.probing.learn import learn
from trainyard.probing.peers import disagreeing
from trainyard.probing.picture import count_cpus, topology
from trainyard.probing.references import (
    Direction,
    References,
    parse_references,
    render_references,
)
from trainyard.probing.system import scaled, system_page

TODAY = dt.date(2026, 11, 22)
TEXT = """
site = "cluster"

[[reference]]
device = "AMD EPYC 9575F"
name = "memory.triad"
unit = "B/s"
value = 4e10
lower = 3.8e10
upper = 4.2e10
direction = "higher"

[[reference]]
device = ""
name = "gloo.2_ranks.point_to_point"
unit = "s"
value = 5e-5
lower = 4e-5
upper = 6e-5
direction = "lower"
learned_from = 9

[[exception]]
node = "n7"
name = "memory.triad"
until = 2026-12-01
reason = "one module is out, ticket 812"
"""


def references(text=TEXT):
    return parse_references(text, "cluster.toml")


def verdicts(made, known=None, today=TODAY):
    return {one.measurement.name: one for one in judge(made, known or references(), today)}


def test_every_kind_of_verdict():
    slow = report(measurements=(measurement(value=3e10), *MEASUREMENTS[1:]))
    found = verdicts(slow)
    assert {name: one.verdict for name, one in found.items()} == {
        "memory.triad": Judgement.FAILED,
        "cpu.matmul_fp32": Judgement.UNREFERENCED,
        "gpu0.copy": Judgement.INVALID,
        "gloo.2_ranks.point_to_point": Judgement.PASSED,
    }
    (line,) = defects(list(found.values()))
    assert line.startswith("n1: memory.triad -25% from the reference, below 3.8e+10 B/s")
    assert "memory modules" in line


def test_a_defect_needs_the_whole_interval_beyond_the_bound():
    near = report(measurements=(measurement(value=3.75e10, share=0.05),))
    assert verdicts(near)["memory.triad"].verdict is Judgement.PASSED
    sure = report(measurements=(measurement(value=3.75e10, share=0.001),))
    assert verdicts(sure)["memory.triad"].verdict is Judgement.FAILED


def test_lower_is_better_for_times():
    slow = report(measurements=(measurement("gloo.2_ranks.point_to_point", 9e-5, "s"),))
    assert verdicts(slow)["gloo.2_ranks.point_to_point"].verdict is Judgement.FAILED
    fast = report(measurements=(measurement("gloo.2_ranks.point_to_point", 1e-5, "s"),))
    assert verdicts(fast)["gloo.2_ranks.point_to_point"].verdict is Judgement.PASSED


def test_an_exception_holds_for_its_node_until_its_day():
    slow = report("n7", measurements=(measurement(value=3e10),))
    assert verdicts(slow)["memory.triad"].verdict is Judgement.EXCUSED
    assert "ticket 812" in verdicts(slow)["memory.triad"].why
    later = dt.date(2026, 12, 2)
    assert verdicts(slow, today=later)["memory.triad"].verdict is Judgement.FAILED
    other = replace(slow, node="n8")
    assert verdicts(other)["memory.triad"].verdict is Judgement.FAILED


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('unit = "B/s"', 'unit = "GB/s"', "no prefixes"),
        ("lower = 3.8e10", "lower = 4.1e10", "in this order"),
        ("lower = 3.8e10", 'lower = "3.8e10"', "must be a number"),
        ('direction = "lower"', 'direction = "higher"', "contradicts its unit"),
        ('direction = "lower"', 'direction = "up"', "choose from higher, lower"),
        ('direction = "higher"', "", "lacks direction"),
        ("learned_from = 9", "learnt = 9", "unknown 'learnt'"),
        ("until = 2026-12-01", 'until = "soon"', "must be a day"),
        ("one module is out, ticket 812", " ", "give a reason"),
        ('site = "cluster"', "", "site is missing"),
        ("[[exception]]", "[[excuse]]", "'excuse' is unknown"),
    ],
)
def test_a_wrong_reference_file_says_what_and_where(old, new, told):
    with pytest.raises(ConfigurationError, match=told) as error:
        references(TEXT.replace(old, new))
    assert "cluster.toml" in str(error.value)


def test_a_reference_in_another_unit_than_its_measurement_is_refused():
    known = references(TEXT.replace('unit = "B/s"', 'unit = "FLOP/s"'))
    with pytest.raises(ConfigurationError, match="'FLOP/s', the measurement in 'B/s'"):
        judge(report(), known, TODAY)


def test_references_survive_being_written():
    known = references()
    assert parse_references(render_references(known, ["a comment"]), "again") == known


def nights(*values, **options):
    return [report(measurements=(measurement(value=v, **options),)) for v in values]


def test_learning_takes_median_and_deviation_and_leaves_what_was_set_by_hand():
    made = learn(nights(4.0e10, 4.4e10, 4.1e10, 9.9e10, 4.2e10), References(site="s"))
    (one,) = made.references
    assert (one.value, one.learned_from) == (4.2e10, 5)
    assert one.device == "AMD EPYC 9575F"
    assert one.direction is Direction.HIGHER
    half = 4 * 1.4826 * 0.2e10
    assert one.upper - one.value == pytest.approx(half)
    assert one.value - one.lower == pytest.approx(half)
    with pytest.raises(ConfigurationError, match="at most 5"):
        learn(nights(*[5e10] * 5), replace(references(), references=references().references[:1]))


def test_equal_nights_still_leave_a_band():
    (one,) = learn(nights(*[4e10] * 6), References(site="s")).references
    assert (one.lower, one.upper) == (pytest.approx(3.8e10), pytest.approx(4.2e10))


def test_invalid_nights_teach_nothing():
    with pytest.raises(ConfigurationError, match=r"5 valid values .* at most 0, in 9 reports"):
        learn(nights(*[4e10] * 9, valid=False, why="busy"), References(site="s"))


def test_gpus_of_one_model_learn_together():
    two = [
        report(measurements=tuple(measurement(f"gpu{n}.copy", 4e12) for n in (0, 1)))
        for _ in range(3)
    ]
    (one,) = learn(two, References(site="s")).references
    assert (one.device, one.name, one.learned_from) == ("NVIDIA H200", "gpu.copy", 6)


def test_the_node_that_disagrees_is_named():
    nodes = [report(f"n{n}", measurements=(measurement(value=4e10 + n * 1e8),)) for n in range(6)]
    assert disagreeing(nodes) == []
    bad = [*nodes, report("n9", {"gpu.driver": "550.54.14"}, [measurement(value=2e10)])]
    found = {(one.node, one.name): one.what for one in disagreeing(bad)}
    assert set(found) == {("n9", "memory.triad"), ("n9", "gpu.driver")}
    assert "6 of 7 nodes: 570.86.15" in found["n9", "gpu.driver"]
    faster = [*nodes, report("n9", measurements=[measurement(value=9e10)])]
    assert disagreeing(faster) == [], "a fast node is no defect"


def test_two_nodes_are_too_few_to_say_which_is_right():
    two = [report("n1"), report("n2", {"gpu.driver": "1"}, [measurement(value=1e9)])]
    assert disagreeing(two) == []


def test_the_fingerprint_is_of_what_somebody_changes():
    same = report("n2", {"gpu0.uuid": "GPU-9"}, measurements=())
    assert fingerprint(report()) == fingerprint(same)
    assert fingerprint(report(facts={"gpu.driver": "550.54.14"})) != fingerprint(report())


def test_a_diff_names_driver_link_and_clock():
    before = report(measurements=(measurement(), measurement("gpu0.copy", 4.1e12)))
    after = report(
        facts={"gpu.driver": "550.54.14", "gpu0.nvlinks": "17 of 18"},
        measurements=(measurement(value=4.001e10), measurement("gpu0.copy", 3.0e12)),
        problems=(),
    )
    assert [str(change) for change in diff(before, after)] == [
        "fact gpu.driver: 570.86.15 -> 550.54.14",
        "fact gpu0.nvlinks: 18 of 18 -> 17 of 18",
        "measurement gpu0.copy: 4.1e+12 B/s -> 3e+12 B/s (-27%)",
        "problem time: gone, was the clock is not synchronised",
    ]
    assert diff(before, before) == []


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.1e12, "B/s", "4.1 TB/s"),
        (5e-5, "s", "50 us"),
        (2.0, "s", "2 s"),
        (18234.2, "1/s", "18234 1/s"),
    ],
)
def test_numbers_with_prefixes(value, unit, text):
    assert scaled(value, unit) == text


def test_cpu_lists():
    assert count_cpus("0-3,8,10-11") == 7
    assert count_cpus("") == 0


def test_the_page_and_the_picture_of_a_system():
    made = report()
    page = system_page([made], about="A node made up for this test.", picture="images/system.svg")
    goldens.check("probing/system.md", page)
    goldens.check("probing/system.svg", topology(made))
