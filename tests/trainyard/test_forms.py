"""The trigger forms take what Airflow's own form sends, and nothing that is no choice."""

from __future__ import annotations

import pytest


@pytest.fixture
def fields():
    from trainyard.operators import forms

    return {**forms.tier_form(), **forms.study_form()}


@pytest.mark.parametrize("name", ["ranks", "global_batches"])
def test_numbers_may_come_as_the_text_that_a_multiple_choice_sends(fields, name):
    from airflow.sdk.exceptions import ParamValidationError

    for good in ([1, 2], ["1", "2"], [64, "128"], None):
        assert fields[name].resolve(good) == good
    for bad in ([0], ["0"], ["-1"], ["x"], ["1.5"], [1.5], "2"):
        with pytest.raises(ParamValidationError):
            fields[name].resolve(bad)


def test_no_field_is_left_out_by_default(fields):
    """An empty text counts as a field that nobody filled in: then the form cannot be sent."""
    assert all(field.value != "" for field in fields.values())
