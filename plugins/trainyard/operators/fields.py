"""The kinds of fields that trigger forms have, and the sections they stand in."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

WHERE, WHAT, HOW, SIZE = "Where", "What", "Training", "How much"
"""Sections of the forms."""


def count(default: int, title: str, text: str, least: int, most: int, section: str) -> Param:
    """Return a field for a whole number that must be given."""
    return Param(
        default,
        type="integer",
        minimum=least,
        maximum=most,
        title=title,
        description=text,
        section=section,
    )


def choice(kind: type[Any], title: str, text: str, section: str) -> Param:
    """Return a field for one member of *kind*, or none."""
    return Param(
        None,
        type=["string", "null"],
        enum=[None, *(member.value for member in kind)],
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=section,
    )


def whole(title: str, text: str, least: int, most: int, section: str = HOW) -> Param:
    """Return a field for a whole number, or none."""
    return Param(
        None,
        type=["integer", "null"],
        minimum=least,
        maximum=most,
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=section,
    )


def numbers(title: str, text: str, examples: list[int], most: int) -> Param:
    """Return a field for any number of whole numbers from 1 on; *examples* are offered."""
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
        section=SIZE,
    )


def several(choices: list[Any], title: str, text: str) -> Param:
    """Return a field for any number of *choices*."""
    values = [str(item) for item in choices]
    return Param(
        None,
        type=["array", "null"],
        items={"type": "string", "enum": values},
        uniqueItems=True,
        examples=values,
        title=title,
        description=f"{text} Empty: as the preset has it.",
        section=SIZE,
    )
