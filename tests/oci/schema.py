"""As much of JSON Schema (draft 4) as the documents of the OCI runtime specification use."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "fixtures" / "oci-runtime"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
}  # fmt: skip


@lru_cache
def load(name: str) -> Any:
    """The schema file *name*."""
    return json.loads((DIRECTORY / name).read_text())


def violations(value: Any, schema: Any, file: str, where: str = "") -> list[str]:
    """What in *value* is not as *schema* of *file* has it, each with its place."""
    found: list[str] = []
    if "$ref" in schema:
        name, _, path = schema["$ref"].partition("#")
        target = load(name or file)
        for key in path.strip("/").split("/"):
            target = target[key]
        found += violations(value, target, name or file, where)
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return [*found, f"{where}: is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())[:1]):
        found += violations(value, part, file, where)
    if isinstance(value, dict):
        found += [f"{where}.{key}: is missing" for key in schema.get("required", ()) if key not in value]
        for key, member in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(known, dict):
                found += violations(member, known, file, f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for index, member in enumerate(value):
            found += violations(member, schema["items"], file, f"{where}[{index}]")
    return found
