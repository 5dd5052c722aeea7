"""Find Slurm jobs that no task waits for, and tasks whose job is gone."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from trainyard.operators import forms, pipeline

with DAG(
    dag_id="reconcile_slurm",
    schedule=None,
    doc_md="""
Compares the jobs that Trainyard has in the queues of its Slurm sites with the Airflow tasks that
wait for them: a job may be left over after a DAG run was deleted, and a task may wait for a job
that no record knows any more. Reports both in the log and the results database. Cancels jobs
without a task only when the form says so.
""",
    params=forms.reconcile_form(),
    default_args=pipeline.DEFAULTS,
    tags=["trainyard", "check", "slurm"],
    dagrun_timeout=timedelta(minutes=30),
    max_active_runs=1,
):
    pipeline.reconcile()
