"""The topology of a node as an SVG picture: NUMA nodes, cores, caches, GPUs, links. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from trainer.contract import ProbeReport

_WIDTH, _PAD, _LINE = 760, 16, 20
_BOX, _TEXT, _FRAME = "#eef3f8", "#1d2b3a", "#7a8ca0"
_GPU, _LINK = "#e6f2e6", "#4a7a4a"
_CORES_SHOWN = 64


def topology(report: ProbeReport) -> str:
    """Return the picture of *report*'s node."""
    facts = {fact.name: fact.value for fact in report.facts}
    numa = sorted(name for name in facts if re.fullmatch(r"numa\.node\d+", name))
    gpus = sorted(
        (name.partition(".")[0] for name in facts if re.fullmatch(r"gpu\d+\.model", name)),
        key=lambda name: int(name[3:]),
    )
    drawing = _Drawing()
    drawing.title(f"{facts.get('cpu.model', 'unknown processor')}: {_size(facts)}")
    columns = max(1, len(numa))
    width = (_WIDTH - _PAD * (columns + 1)) / columns
    for place, name in enumerate(numa or ["numa.node0"]):
        left = _PAD + place * (width + _PAD)
        drawing.node(left, width, name.partition(".")[2], facts.get(name, ""), facts)
    drawing.down()
    for name in gpus:
        drawing.gpu(name, facts)
    if not gpus:
        drawing.note("no GPU")
    return drawing.text()


def _size(facts: Mapping[str, str]) -> str:
    sockets, cores = facts.get("cpu.sockets", "1"), facts.get("cpu.cores", "?")
    threads, memory = facts.get("cpu.threads", "?"), facts.get("memory.total", "")
    parts = [
        f"{sockets} sockets, {cores} cores, {threads} threads".replace("1 sockets", "1 socket")
    ]
    if memory.isdecimal():
        parts.append(f"{int(memory) / 1024:.1f} GiB")
    return ", ".join(parts)


def count_cpus(text: str) -> int:
    """Return how many CPUs a list such as ``0-3,8`` names."""
    total = 0
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


class _Drawing:
    """Shapes from top to bottom."""

    def __init__(self) -> None:
        self._shapes: list[str] = []
        self._top = float(_PAD)
        self._bottom = self._top

    def title(self, text: str) -> None:
        self._write(_PAD, self._top + _LINE / 2, text, weight="bold")
        self._top += _LINE + 4

    def node(
        self, left: float, width: float, name: str, cpus: str, facts: Mapping[str, str]
    ) -> None:
        count = count_cpus(cpus)
        per_row = max(1, int((width - 2 * _PAD) // 22))
        rows = -(-min(count, _CORES_SHOWN) // per_row) if count else 0
        caches = [f"{key[6:]} {facts[key]}" for key in sorted(facts) if key.startswith("cache.")]
        height = _LINE * (2 + len(caches)) + rows * 22 + _PAD
        self._box(left, self._top, width, height, _BOX)
        label = f"{name}: CPUs {cpus}" if cpus else name
        self._write(left + _PAD / 2, self._top + _LINE, label, weight="bold")
        for place in range(min(count, _CORES_SHOWN)):
            x = left + _PAD / 2 + place % per_row * 22
            y = self._top + 1.5 * _LINE + place // per_row * 22
            self._box(x, y, 18, 18, "#ffffff")
        below = self._top + 1.5 * _LINE + rows * 22 + _LINE * 0.8
        for line in caches:
            self._write(left + _PAD / 2, below, line)
            below += _LINE
        self._bottom = max(self._bottom, self._top + height)

    def down(self) -> None:
        self._top = self._bottom + _PAD

    def gpu(self, name: str, facts: Mapping[str, str]) -> None:
        lanes = facts.get(f"{name}.pcie_width_max")
        link = f"PCIe {facts.get(f'{name}.pcie_generation_max', '?')}.0 x{lanes}" if lanes else ""
        nvlinks = facts.get(f"{name}.nvlinks")
        parts = [facts[f"{name}.model"], link, f"NVLink {nvlinks} up" if nvlinks else ""]
        paths = [
            f"to {key.rpartition('_to_')[2]}: {facts[key]}"
            for key in sorted(facts)
            if key.startswith(f"{name}.path_to_")
        ]
        height = _LINE * (1.5 + bool(paths))
        self._box(_PAD, self._top, _WIDTH - 2 * _PAD, height, _GPU)
        shown = ", ".join(part for part in parts if part)
        self._write(_PAD * 1.5, self._top + _LINE, f"{name}: {shown}", weight="bold")
        if paths:
            self._write(_PAD * 1.5, self._top + 2 * _LINE, "; ".join(paths))
        centre = _WIDTH / 2
        self._shapes.append(
            f'<line x1="{centre:g}" y1="{self._top - _PAD:g}" x2="{centre:g}" y2="{self._top:g}" '
            f'stroke="{_LINK}" stroke-width="2"/>'
        )
        self._top += height + _PAD
        self._bottom = self._top

    def note(self, text: str) -> None:
        self._write(_PAD, self._top + _LINE / 2, text)
        self._top += _LINE
        self._bottom = self._top

    def text(self) -> str:
        height = self._bottom + _PAD
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" '
            f'width="{_WIDTH}" height="{height:g}" font-family="sans-serif" font-size="12" '
            f'role="img"><title>Topology of the node</title>\n'
            f'<rect width="100%" height="100%" fill="#ffffff"/>\n'
            + "\n".join(self._shapes)
            + "\n</svg>\n"
        )

    def _box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'fill="{fill}" stroke="{_FRAME}"/>'
        )

    def _write(self, x: float, y: float, text: str, weight: str = "normal") -> None:
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" fill="{_TEXT}" font-weight="{weight}">'
            f"{html.escape(text)}</text>"
        )
