"""Measure strong and weak scaling, and report it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="scaling_study",
    schedule=None,
    doc_md="""
Trains every configuration of a strong and a weak scaling study several times, one at a time, in a
random order of blocks, and publishes a report. A failed run stands in the report and does not stop
the others. The site must have been verified lately; where it was not, that is done first.
""",
    params={
        **forms.site_form(),
        **forms.tier_form(),
        **forms.dataset_form(),
        **forms.study_form(),
        **forms.work_form(),
    },
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "training", "study"],
    dagrun_timeout=timedelta(hours=24),
):
    fetched = pipeline.fetch()
    pipeline.verify(reuse=True) >> fetched
    pipeline.report(pipeline.runs("scaling", fetched, in_study=True))
