"""Keep the compiler out of runs that compile nothing: seconds of start-up per rank.

Process groups, ``DistributedDataParallel`` and ``torch.optim`` ask ``torch._dynamo`` four small
things (forget cached rules, which DDP mode, wrap this function, break the graph here), and the
first one imports the whole compiler with sympy: 3 s on a 2.6 GHz core, more than ``import torch``
itself. ``without_compiler()`` puts a stand-in in its place that answers these four as an eager run
would be answered: there is no cache, no mode, no graph and nothing to wrap. It steps aside
for good, in favour of the real package, when anything else is asked of it or when any part of the
compiler is imported, so nothing can get a wrong answer.
"""

from __future__ import annotations

import importlib
import importlib.abc
import sys
import types
from collections.abc import Callable
from typing import Any

_NAME = "torch._dynamo"
_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd")


class _StandIn(types.ModuleType):
    """Answers what an eager run asks; on any other question makes way for the real module."""

    def __init__(self, name: str, answers: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(answers)

    def __getattr__(self, attribute: str) -> Any:
        _step_aside()
        return getattr(importlib.import_module(self.__name__), attribute)


class _Watch(importlib.abc.MetaPathFinder):
    """Makes the stand-in step aside before the compiler is imported, so in torch's own order."""

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        """Find nothing; only notice the import."""
        if fullname.startswith(_COMPILER):
            _step_aside()


def _step_aside() -> None:
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]
    for module in (_NAME, f"{_NAME}.utils", f"{_NAME}.trace_rules"):
        if isinstance(sys.modules.get(module), _StandIn):
            del sys.modules[module]
    torch = sys.modules.get("torch")
    if isinstance(vars(torch).get("_dynamo") if torch else None, _StandIn):
        delattr(torch, "_dynamo")


def _disable(function: Callable[..., Any], *_args: object, **_options: object) -> Any:
    return function


def _nothing(*_args: object, **_options: object) -> None:
    return None


def without_compiler() -> None:
    """Put the stand-in where ``torch._dynamo`` would be imported; does nothing once it was."""
    if _NAME in sys.modules:
        return
    importlib.import_module("torch")  # torch itself must find the compiler as it expects it
    if _NAME in sys.modules:
        return
    utils = _StandIn(f"{_NAME}.utils", {"get_optimize_ddp_mode": lambda: "no_optimization"})
    rules = _StandIn(f"{_NAME}.trace_rules", {"clear_lru_cache": _nothing})
    sys.modules[_NAME] = _StandIn(
        _NAME, {"disable": _disable, "graph_break": _nothing, "utils": utils, "trace_rules": rules}
    )
    sys.meta_path.insert(0, _Watch())
