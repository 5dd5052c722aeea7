"""A throw-away, real Slurm cluster of several nodes on one machine: ``python -m``-runnable."""

from __future__ import annotations
