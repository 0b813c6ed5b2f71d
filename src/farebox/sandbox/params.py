"""Declared parameters: each route says what it takes; everything else is refused the way Stripe refuses it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.decimals import parsed, plain
from farebox.sandbox.errors import invalid
from farebox.sandbox.forms import Form

__all__ = [
    "METADATA_KEYS_MAX",
    "METADATA_KEY_CHARACTERS_MAX",
    "METADATA_VALUE_CHARACTERS_MAX",
    "Field",
    "anything",
    "array",
    "boolean",
    "check",
    "decimal",
    "email",
    "enum",
    "integer",
    "metadata",
    "obj",
    "required",
    "text",
    "unsettable",
]

METADATA_KEYS_MAX: Final = 50
METADATA_KEY_CHARACTERS_MAX: Final = 40
METADATA_VALUE_CHARACTERS_MAX: Final = 500

_Convert = Callable[[Form, str], Any]


@dataclass(frozen=True, slots=True)
class Field:
    convert: _Convert
    required: bool = False


def required(field: Field) -> Field:
    return Field(field.convert, required=True)


def check(given: Mapping[str, Form], spec: Mapping[str, Field], path: str = "") -> dict[str, Any]:
    """The parameters, converted. StripeError for an unknown, missing or malformed one, with its name in `param`."""
    for name in given:
        if name not in spec:
            full = _join(path, name)
            raise invalid(f"Received unknown parameter: {full}", param=full, code="parameter_unknown")
    values: dict[str, Any] = {}
    for name, field in spec.items():
        full = _join(path, name)
        if name in given:
            values[name] = field.convert(given[name], full)
        elif field.required:
            raise invalid(f"Missing required param: {full}.", param=full, code="parameter_missing")
    return values


def text(characters_max: int = 5_000, *, empty: bool = False) -> Field:
    def convert(value: Form, path: str) -> str | None:
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {path} must be a string.", param=path)
        if value == "" and not empty:
            message = (
                f"You passed an empty string for '{path}'. We assume empty values are an attempt to unset a parameter"
            )
            raise invalid(f"{message}; however '{path}' cannot be unset.", param=path, code="parameter_invalid_empty")
        if len(value) > characters_max:
            raise invalid(f"Invalid string: {path} must be at most {characters_max} characters", param=path)
        return value

    return Field(convert)


def email() -> Field:
    """An address, looked at as little as can be said of all: something, an @, and something."""
    plain_text = text(512)

    def convert(value: Form, path: str) -> str:
        address: str = plain_text.convert(value, path)
        name, at, host = address.rpartition("@")
        if not (name and at and host) or "@" in name or not address.isprintable() or " " in address:
            raise invalid(f"Invalid email address: {address[:60]}", param=path, code="email_invalid")
        return address

    return Field(convert)


def integer(low: int = 0, high: int = 999_999_999_999) -> Field:
    def convert(value: Form, path: str) -> int:
        shown = value if isinstance(value, str) else "an object"
        digits = shown[1:] if shown.startswith("-") else shown
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            raise invalid(f"Invalid integer: {shown[:60]}", param=path, code="parameter_invalid_integer")
        number = int(shown)
        if not low <= number <= high:
            raise invalid(
                f"Invalid integer: {path} must be from {low} to {high}", param=path, code="parameter_invalid_integer"
            )
        return number

    return Field(convert)


def decimal(decimals_max: int = 12) -> Field:
    def convert(value: Form, path: str) -> Decimal:
        number = parsed(value) if isinstance(value, str) else None
        if number is None:
            raise invalid(f"Invalid decimal: {path} must be a decimal string", param=path)
        if len(plain(number).partition(".")[2]) > decimals_max:
            raise invalid(f"Invalid decimal: {path} may have at most {decimals_max} decimal places", param=path)
        return number

    return Field(convert)


def boolean() -> Field:
    def convert(value: Form, path: str) -> bool:
        if value not in ("true", "false"):
            raise invalid(f"Invalid boolean: {str(value)[:60]}", param=path)
        return value == "true"

    return Field(convert)


def enum(*choices: str) -> Field:
    def convert(value: Form, path: str) -> str:
        if not isinstance(value, str) or value not in choices:
            named = ", ".join(choices[:-1]) + f", or {choices[-1]}" if len(choices) > 1 else choices[0]
            raise invalid(f"Invalid {path}: must be one of {named}", param=path)
        return value

    return Field(convert)


def obj(spec: Mapping[str, Field], *, unset: bool = False) -> Field:
    def convert(value: Form, path: str) -> Any:
        if unset and value == "":
            return None
        if not isinstance(value, dict):
            raise invalid("Invalid object", param=path)
        return check(value, spec, path)

    return Field(convert)


def array(item: Field, items_max: int = 100) -> Field:
    def convert(value: Form, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise invalid("Invalid array", param=path)
        if len(value) > items_max:
            raise invalid(f"Array is too long: at most {items_max} items", param=path)
        return [item.convert(entry, f"{path}[{i}]") for i, entry in enumerate(value)]

    return Field(convert)


def unsettable(field: Field, otherwise: Any = None) -> Field:
    """A parameter that an empty string unsets: `otherwise` stands for it then, an empty list by default."""

    def convert(value: Form, path: str) -> Any:
        return ([] if otherwise is None else otherwise) if value == "" else field.convert(value, path)

    return Field(convert)


def metadata() -> Field:
    """Keys and values as Stripe bounds them. An empty value removes its key."""

    def convert(value: Form, path: str) -> dict[str, str]:
        if value == "":
            return {}
        if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
            raise invalid("Invalid metadata: it must be a set of string key-value pairs", param=path)
        if len(value) > METADATA_KEYS_MAX:
            raise invalid(f"Metadata may have at most {METADATA_KEYS_MAX} keys", param=path)
        for key, entry in value.items():
            if len(key) > METADATA_KEY_CHARACTERS_MAX or len(str(entry)) > METADATA_VALUE_CHARACTERS_MAX:
                raise invalid(
                    f"Metadata keys have at most {METADATA_KEY_CHARACTERS_MAX} characters and values at most "
                    f"{METADATA_VALUE_CHARACTERS_MAX}",
                    param=f"{path}[{key[:40]}]",
                )
        return {key: str(entry) for key, entry in value.items()}

    return Field(convert)


def anything() -> Field:
    """Strings by name, as a meter event's payload has them."""

    def convert(value: Form, path: str) -> dict[str, str]:
        if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
            raise invalid("Invalid object", param=path)
        return {key: str(entry) for key, entry in value.items()}

    return Field(convert)


def _join(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
