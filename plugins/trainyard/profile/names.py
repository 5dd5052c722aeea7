"""Names of kernels: which are collectives, and how one reads in two profiles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainyard.profile.model import Array

# NCCL 2.18 and older name kernels ncclKernel_AllReduce_RING_LL_Sum_float…; newer ones
# ncclDevKernel_AllReduce_Sum_f32_RING_LL(…). RCCL: ncclKernel_Generic…, mscclKernel….
_COLLECTIVE = re.compile(
    r"nccl(Dev)?Kernel|ncclSymk?|mscclKernel|onecclKernel|nvshmem.*(reduce|gather|alltoall)"
)


def is_collective(name: str) -> bool:
    """Whether a kernel of this name moves data between ranks."""
    return _COLLECTIVE.search(name) is not None


def collective_places(names: tuple[str, ...]) -> Array:
    """Return, by name index, whether the name is a collective kernel's."""
    return np.fromiter((is_collective(name) for name in names), dtype=bool, count=len(names))


_ANONYMOUS = re.compile(r"\(anonymous namespace\)::|<unnamed>::|\{anonymous\}::")
_LAMBDA = re.compile(r"\{lambda\([^{}]*\)#\d+\}|\$_\d+|\(lambda\)|<lambda[^>]*>")
_SPACES = re.compile(r"\s+")


def normalised(name: str) -> str:
    """Return a kernel's name as it reads in two profiles of the same program.

    Return type, anonymous namespaces, the numbers of lambdas and the list of parameters differ
    between compilers and profilers; template arguments stay, they tell kernels apart.
    """
    text = _ANONYMOUS.sub("", _LAMBDA.sub("lambda", name.strip()))
    text = _SPACES.sub(" ", text).removeprefix("void ").removeprefix("static ").strip()
    return _without_parameters(text) or name


def _without_parameters(text: str) -> str:
    """Cut the trailing ``(…)`` of a function's signature, outside template brackets."""
    depth = 0
    for place, letter in enumerate(text):
        if letter == "<":
            depth += 1
        elif letter == ">" and place and text[place - 1] != "-":
            depth -= 1
        elif letter == "(" and depth == 0 and place:
            return text[:place].strip()
    return text


def base_name(name: str) -> str:
    """Return the function's name alone: without template arguments, parameters, namespaces."""
    text = normalised(name)
    text = text.split("<", 1)[0] if not text.startswith("<") else text
    return text.rsplit("::", 1)[-1]
