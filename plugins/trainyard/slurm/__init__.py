"""The Slurm engine: submit exactly once, watch cheaply, never lie about a job. No Airflow here.

Read in this order: ``identity`` (which job is ours), ``transport`` and ``client`` (how Slurm is
asked, and what an answer may look like), ``submit`` (exactly-once submission), ``evidence`` and
``judge`` (what was seen, and what may be concluded), ``poller`` (who asks, and how often),
``cancel``, ``reconcile`` and ``quarantine``. The table of states is docs/slurm-states.md.
"""
