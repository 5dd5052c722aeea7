"""JSON Schema of the records, from the dataclasses: ``python -m trainer.contract.schema``.

The committed files under docs/schema/ are what this prints; a test compares them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from trainer.contract.codec import encode
from trainer.contract.probes import ProbeReport
from trainer.contract.result import RunResult
from trainer.contract.spec import RunSpec

RECORDS: tuple[type, ...] = (RunSpec, RunResult, ProbeReport)
_SCALARS = {str: "string", int: "integer", bool: "boolean", float: "number"}


def schema_of(record: type) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one record type."""
    defs: dict[str, Any] = {}
    body = _object(record, defs)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": record.__name__}
    return head | body | ({"$defs": defs} if defs else {})


def _object(record: type, defs: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    properties, required = {}, []
    for field in dataclasses.fields(record):
        entry = _type(hints[field.name], defs)
        if doc := field.metadata.get("doc"):
            entry = entry | {"description": doc}
        if field.name == "schema_version":
            entry = entry | {"const": field.default}
        if field.default is not dataclasses.MISSING:
            entry = entry | {"default": encode(field.default)}
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = entry
    return {
        "type": "object",
        "description": (record.__doc__ or "").split("\n")[0],
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _type(hint: Any, defs: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return {"anyOf": [_type(options[0], defs), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _type(get_args(hint)[0], defs)}
    if dataclasses.is_dataclass(hint):
        name = typing.cast(type, hint).__name__
        if name not in defs:
            defs[name] = _object(typing.cast(type, hint), defs)
        return {"$ref": f"#/$defs/{name}"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    if hint is float:
        return {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
    return {"type": _SCALARS[hint]}


def main(folder: Path) -> None:
    """Write one schema file per record into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for record in RECORDS:
        text = json.dumps(schema_of(record), indent=2) + "\n"
        (folder / f"{record.__name__}.schema.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schema"))
