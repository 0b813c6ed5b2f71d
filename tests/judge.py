"""Stripe's own OpenAPI description as the judge of every request that the local Stripe takes and every answer it gives.

The description is of 2026-05-27.dahlia; what the SDK of 2026-10-28.endive knows
beyond it stands below, one by one, with the file of the SDK that says so. Nothing of the sandbox judges the sandbox:
forms are decoded here anew.

Judged is every answer; every request that was accepted; and every request of Farebox's own, whatever it got.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from tests.description import ROOT, described, sdk_file

from farebox.sandbox import Answer, Sandbox
from farebox.sandbox.core import SandboxCore
from farebox.sandbox.decimals import encode
from farebox.sandbox.requestlog import BODY_BYTES_KEPT
from farebox.sandbox.state import State, visible

__all__ = [
    "ADDED",
    "ADDED_PARAMETERS",
    "NULLABLE",
    "PRIVATE",
    "SLIPS",
    "Judge",
    "form_of",
    "judge_now",
    "judged_log",
    "told",
    "watched",
]

Schema = dict[str, Any]

_LATE: Final = "_v1_billing_meter_error_report_triggered_event.py"
ADDED: Final[dict[tuple[str, str], tuple[Schema, str]]] = {
    ("product", "type"): ({"enum": ["good", "service"]}, "_product.py"),
    ("recurring", "trial_period_days"): ({"type": ["integer", "null"]}, "_price.py"),
    ("v2.core.event", "snapshot_event"): ({"type": "string"}, "v2/core/_event.py"),
}
"""(schema, property) → what it holds, and the SDK's file that says so. None that is used was taken away."""

NULLABLE: Final[dict[tuple[str, str], tuple[Schema, str]]] = {
    ("v2.core.event", "changes"): ({"type": ["object", "null"]}, "v2/core/_event.py"),
    ("v2.core.event", "context"): ({"type": ["string", "null"]}, "v2/core/_event.py"),
    ("v2.core.event", "reason"): ({"type": ["object", "null"]}, "v2/core/_event.py"),
    ("v2.core.event_destination", "snapshot_api_version"): (
        {"type": ["string", "null"]},
        "v2/core/_event_destination.py",
    ),
    ("v2.core.event_destination", "status_details"): ({"type": ["object", "null"]}, "v2/core/_event_destination.py"),
    ("v2.core.event_destination", "webhook_endpoint"): (
        {
            "type": "object",
            "properties": {"signing_secret": {"type": ["string", "null"]}, "url": {"type": ["string", "null"]}},
            "additionalProperties": False,
        },
        "v2/core/_event_destination.py",
    ),
}
"""(schema, property) → what it holds, and the SDK's file that says so, where the description knows no null."""

ADDED_PARAMETERS: Final[dict[tuple[str, str], tuple[Schema, str]]] = {}
"""(METHOD /path, parameter) → what it holds, and the SDK's file that says so."""

MISTAKEN: Final[dict[str, str]] = {
    "GET /v1/billing/credit_balance_transactions answers: $.url: ": "the SDK pages by this address; "
    "the description gives it that of the grants",
}
"""What the description says and cannot mean, by the beginning of the fault."""

SLIPS: Final[dict[str, str]] = {
    "usage": "the SDK's fetch_event_async and fetch_related_object_async send a note to themselves: v2/core/_event.py",
}
"""What the SDK sends along when it fetches something, and cannot mean to."""

PRIVATE: Final[dict[str, str]] = {
    "/v1/payment_pages": "the hosted page's own API, which the official CLI uses to pay",
    "/v1/stripecli": "the official CLI's own API, with which `listen` begins",
}
"""Paths that Stripe has and describes nowhere."""

CODES: Final = (("_invoice.py", "LastFinalizationError"), (f"events/{_LATE}", "ErrorType"))
"""Where the SDK lists the codes of errors: the file, and the class with the field `code`."""

_OURS: Final = frozenset({"not_modelled"})  # what only a stand-in says
_PARAMETER: Final = re.compile(r"\{[^}]+\}")
_NUMBERS_AND_IDS: Final = re.compile(r"_[0-9A-Za-z]{16,}|(?<=[ :\[])-?\d+(?=[,\]}\s])")


def judge_now() -> "Judge":
    return Judge(described())


@dataclass(frozen=True, slots=True)
class _Operation:
    """One of Stripe's endpoints."""

    name: str
    params: Draft202012Validator
    answer: Draft202012Validator
    error: Draft202012Validator
    json: bool


@dataclass
class Judge:
    """Faults are told as sentences; none is an empty list. The same shapes are judged once."""

    spec: dict[str, Any]
    judged: int = 0
    _operations: dict[tuple[str, str], _Operation] = field(default_factory=dict)
    _seen: dict[bytes, list[str]] = field(default_factory=dict)

    @cached_property
    def _registry(self) -> Any:
        document = {"schemas": self._schemas}
        return Registry().with_resource(ROOT, DRAFT202012.create_resource(document))

    @cached_property
    def _schemas(self) -> dict[str, Schema]:
        schemas: dict[str, Schema] = self.spec["schemas"]
        for (name, added), (schema, _) in (ADDED | NULLABLE).items():
            schemas[name]["properties"][added] = schema
        return schemas

    @cached_property
    def _paths(self) -> list[tuple[re.Pattern[str], str]]:
        """Plain paths before those with ids in them."""
        every = sorted(self.spec["paths"], key=lambda path: (path.count("{"), path))
        return [(re.compile(_PARAMETER.sub("[^/]+", path)), path) for path in every]

    def operation(self, method: str, path: str) -> _Operation | None:
        """The endpoint that this path is Stripe's for, or None when the description has none."""
        template = next((name for pattern, name in self._paths if pattern.fullmatch(path)), None)
        if template is None or method not in self.spec["paths"][template]:
            return None
        if (method, template) not in self._operations:
            found = self.spec["paths"][template][method]
            name = f"{method} {template}"
            params = {"type": "object", **found["params"]}
            for (where, added), (schema, _) in ADDED_PARAMETERS.items():
                if where == name:
                    params["properties"][added] = schema
            error = "v2.error" if path.startswith("/v2/") else "error"
            self._operations[method, template] = _Operation(
                name,
                self._validator(params),
                self._validator(found["answer"]),
                self._validator({"$ref": f"{ROOT}#/schemas/{error}"}),
                found["json"],
            )
        return self._operations[method, template]

    def request_faults(self, method: str, url: str, body: bytes) -> list[str]:
        """What Stripe's description has against a request."""
        path, _, query = url.partition("?")
        operation = self.operation(method, path)
        if operation is None:
            return [] if _private(path) else [f"{method} {path} is no endpoint of Stripe's"]
        given: Any = form_of(query)
        if operation.json:
            given |= json.loads(body or b"{}")
        else:
            given |= form_of(body.decode())
        if method == "GET":
            given = {name: value for name, value in given.items() if name not in SLIPS}
        converted = self._converted(operation.params.schema, given)
        return self._faults(operation.params, converted, f"{operation.name} is asked")

    def answer_faults(self, method: str, url: str, status: int, body: bytes) -> list[str]:
        """What Stripe's description has against an answer."""
        path = url.partition("?")[0]
        operation = self.operation(method, path)
        if operation is None and (_private(path) or status >= 400):
            return []
        if operation is None:
            return [f"{method} {path} is no endpoint of Stripe's"]
        shape = _NUMBERS_AND_IDS.sub("0", body.decode())
        key = hashlib.sha256(f"{operation.name} {status} {shape}".encode()).digest()
        if key not in self._seen:
            self._seen[key] = self._judged(operation, status, json.loads(body))
        return self._seen[key]

    def object_faults(self, thing: Mapping[str, Any], where: str) -> list[str]:
        """What the description has against an object that stands by itself, as in an event."""
        text = json.dumps(thing)
        key = hashlib.sha256(f"{where} {_NUMBERS_AND_IDS.sub('0', text)}".encode()).digest()
        if key not in self._seen:
            schema = {"$ref": f"{ROOT}#/schemas/{thing['object']}"}
            known = thing["object"] in self._schemas
            self._seen[key] = self._faults(self._validator(schema), thing, where) if known else [f"{where}: unknown"]
        return self._seen[key]

    def _judged(self, operation: _Operation, status: int, answer: Any) -> list[str]:
        if status == 200:
            found = self._faults(operation.answer, answer, f"{operation.name} answers")
            return [fault for fault in found if not fault.startswith(tuple(MISTAKEN))]
        if isinstance(answer, dict) and answer.get("error", {}).get("code") in _OURS:
            return []
        where = f"{operation.name} answers {status}"
        code = answer.get("error", {}).get("code") if isinstance(answer, dict) else None
        listed = code is None or " /v2/" in operation.name or code in self._codes
        return self._faults(operation.error, answer, where) + ([] if listed else [f"{where}: no such code: {code}"])

    @cached_property
    def _codes(self) -> frozenset[str]:
        """What the SDK knows `code` of an error to be."""
        found = set()
        for name, owner in CODES:
            for node in ast.walk(ast.parse(sdk_file(name).read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and node.name == owner:
                    fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and ast.unparse(f.target) == "code"]
                    found |= {c.value for f in fields for c in ast.walk(f.annotation) if isinstance(c, ast.Constant)}
        return frozenset(code for code in found if isinstance(code, str))

    def _validator(self, schema: Schema) -> Draft202012Validator:
        return Draft202012Validator(schema, registry=self._registry)

    def _faults(self, validator: Draft202012Validator, value: Any, where: str) -> list[str]:
        self.judged += 1
        found = {f"{where}: {said}" for error in validator.iter_errors(value) for said in _said(error)}
        return sorted(found)

    def _converted(self, schema: Any, value: Any) -> Any:
        """A form's texts as the types that the schema wants. What fits none stays as it is, to be refused."""
        if not isinstance(schema, dict):
            return value
        if "anyOf" in schema:
            tried = [(branch, self._converted(branch, value)) for branch in schema["anyOf"]]
            return next((made for branch, made in tried if self._validator(branch).is_valid(made)), value)
        kind = schema.get("type")
        if isinstance(value, dict) and kind == "array" and all(key.isdecimal() for key in value):
            return [self._converted(schema.get("items"), value[key]) for key in sorted(value, key=int)]
        if isinstance(value, dict):
            inner, rest = schema.get("properties", {}), schema.get("additionalProperties")
            return {name: self._converted(inner.get(name, rest), entry) for name, entry in value.items()}
        if not isinstance(value, str):
            return value
        if kind == "integer" and re.fullmatch(r"-?\d+", value):
            return int(value)
        if kind == "number" and re.fullmatch(r"-?\d+(\.\d+)?", value):
            return float(value)
        return value == "true" if kind == "boolean" and value in ("true", "false") else value


def _private(path: str) -> bool:
    return any(path.startswith(known) for known in PRIVATE)


def _said(error: ValidationError) -> Iterator[str]:
    """One sentence for each fault; of the branches of an anyOf, those of the one that comes nearest."""
    inner = list(error.context or ())
    if not inner:
        yield f"{error.json_path}: {error.message[:300]}"
        return
    branches: dict[Any, list[ValidationError]] = {}
    for each in inner:
        branches.setdefault(each.relative_schema_path[0], []).append(each)
    for each in min(branches.values(), key=_distance):
        yield from _said(each)


def _distance(errors: list[ValidationError]) -> tuple[int, ...]:
    """Of another type altogether; another object; with what does not belong to it; and how much is wrong."""
    other = any(e.validator == "type" and not e.relative_path for e in errors)
    named = any(list(e.relative_path) == ["object"] for e in errors)
    return other, named, any(e.validator == "additionalProperties" for e in errors), len(errors)


def form_of(text: str) -> dict[str, Any]:
    """Stripe's form encoding, decoded into objects by name: `a[b][0]=c`, and `a[]=c` by position."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        path = [part.rstrip("]") for part in name.split("[")]
        here = root
        for i, step in enumerate(path[:-1]):
            here = here.setdefault(_place(here, step, path[i + 1 :]), {})
        here[path[-1] or str(len(here))] = value
    return root


def _place(here: dict[str, Any], step: str, rest: list[str]) -> str:
    """Of `a[][x]=1&a[][y]=2&a[][x]=3`: the newest element until a name comes again."""
    if step:
        return step
    newest = next(reversed(here), None)
    if newest is not None and rest[0] and isinstance(here[newest], dict) and rest[0] not in here[newest]:
        return newest
    return str(len(here))


def judged_log(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The faults in what a served local Stripe shows at /_sandbox/requests?bodies=true, but for what it cut short."""
    judge, faults = judge_now(), []
    for entry in entries:
        url = f"{entry['path']}?{entry['query']}" if entry["query"] else entry["path"]
        body, answer = entry["body"].encode(), entry["answer"].encode()
        if entry["status"] is None or max(len(body), len(answer)) >= BODY_BYTES_KEPT:
            continue
        if entry["status"] == 200:
            faults += judge.request_faults(entry["method"], url, body)
        faults += judge.answer_faults(entry["method"], url, entry["status"], answer)
    return faults


@contextmanager
def watched() -> Iterator[list[str]]:
    """Whatever reaches a local Stripe in this process is judged, and every object that its events show."""
    faults: list[str] = []
    found: list[Judge] = []
    ask, emit = SandboxCore.request, Sandbox.emit

    def judge() -> Judge:
        if not found:
            found.append(judge_now())
        return found[0]

    def asking(self: Any, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        answer = ask(self, method, url, headers, body)
        if answer.status == 200 or _is_fareboxs(headers):
            faults.extend(judge().request_faults(method, url, body))
        faults.extend(judge().answer_faults(method, url, answer.status, answer.body))
        return answer

    def emitting(self: Any, state: State, type: str, thing: Any, *more: Any) -> None:
        emit(self, state, type, thing, *more)
        shown = json.loads(json.dumps(visible(thing), default=encode))
        faults.extend(judge().object_faults(shown, f"The event {type} shows"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SandboxCore, "request", asking)
        patch.setattr(Sandbox, "emit", emitting)
        yield faults


def _is_fareboxs(headers: Mapping[str, str]) -> bool:
    sent = {name.lower(): value for name, value in headers.items()}
    return '"httplib": "farebox"' in sent.get("x-stripe-client-user-agent", "")


def told(faults: Iterable[str]) -> str:
    found = sorted(set(faults))
    return "\n".join([f"Stripe's own description says otherwise in {len(found)} points:", *found[:40]])
