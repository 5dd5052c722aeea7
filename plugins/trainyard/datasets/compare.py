"""What differs between two versions of a data set, in the terms of their manifests. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from trainyard.datasets.manifest import Manifest


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return one line per difference: bytes, schema, classes, counts, balance, quality checks."""
    return [
        *_plain(old, new),
        *_classes(old, new),
        *_counts(old, new),
        *_quality(old, new),
    ]


def _plain(old: Manifest, new: Manifest) -> Iterator[str]:
    if old.size_bytes != new.size_bytes:
        change = new.size_bytes - old.size_bytes
        yield f"bytes: {old.size_bytes:,} -> {new.size_bytes:,} ({change:+,})"
    for name in ("format", "source", "licence", "title"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield f"{name}: {before} -> {after}"


def _classes(old: Manifest, new: Manifest) -> Iterator[str]:
    if old.classes == new.classes:
        return
    gone = [name for name in old.classes if name not in new.classes]
    came = [name for name in new.classes if name not in old.classes]
    if gone:
        yield f"classes gone: {', '.join(gone)}"
    if came:
        yield f"classes new: {', '.join(came)}"
    if not gone and not came:
        yield f"classes in another order: {', '.join(new.classes)} (labels mean other classes)"


def _counts(old: Manifest, new: Manifest) -> Iterator[str]:
    before = {count.split: count for count in old.counts}
    after = {count.split: count for count in new.counts}
    for split in sorted(before.keys() | after.keys()):
        if split not in before or split not in after:
            yield f"{split}: {'new' if split in after else 'gone'}"
            continue
        one, two = before[split], after[split]
        if one.images != two.images:
            yield f"{split} images: {one.images:,} -> {two.images:,}"
        balance = _balance(one.per_class), _balance(two.per_class)
        if one.per_class != two.per_class:
            yield f"{split} smallest / largest class: {balance[0]:.3f} -> {balance[1]:.3f}"
            yield from _per_class(split, old, new, one.per_class, two.per_class)


def _per_class(
    split: str, old: Manifest, new: Manifest, before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[str]:
    known = dict(zip(old.classes, before, strict=False))
    for name, count in zip(new.classes, after, strict=False):
        if name in known and known[name] != count:
            yield f"{split} {name}: {known[name]:,} -> {count:,}"


def _balance(per_class: tuple[int, ...]) -> float:
    largest = max(per_class, default=0)
    return min(per_class) / largest if largest else 0.0


def _quality(old: Manifest, new: Manifest) -> Iterator[str]:
    before = {check.name: check for check in old.quality}
    after = {check.name: check for check in new.quality}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{name}: no longer checked ({before[name].verdict} before)"
        elif name not in before:
            yield f"{name}: {after[name].verdict}, {after[name].measured} (not checked before)"
        elif (before[name].verdict, before[name].measured) != (
            after[name].verdict,
            after[name].measured,
        ):
            one, two = before[name], after[name]
            yield f"{name}: {one.verdict}, {one.measured} -> {two.verdict}, {two.measured}"
