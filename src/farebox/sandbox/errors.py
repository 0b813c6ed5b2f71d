"""Stripe's error answers: status, type, code, param and a message that says what to do."""

from typing import Final

__all__ = ["NOT_MODELLED", "StripeError", "invalid", "missing_object", "not_modelled", "wrong_state"]


NOT_MODELLED: Final = "not_modelled"


class StripeError(Exception):
    """Answered as {"error": {…}} with `status`."""

    def __init__(
        self, status: int, kind: str, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.code = code
        self.param = param
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, dict[str, str]]:
        error = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
            if self.code != NOT_MODELLED:  # Stripe has no page about what only a stand-in says
                error["doc_url"] = f"https://stripe.com/docs/error-codes/{self.code.replace('_', '-')}"
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    """A 400 about what was sent."""
    return StripeError(400, "invalid_request_error", message, param=param, code=code)


def missing_object(kind: str, id: str, param: str = "id", *, status: int = 404) -> StripeError:
    """Nothing has this id: 404 for the object asked for, 400 for one named in a parameter."""
    return StripeError(status, "invalid_request_error", f"No such {kind}: '{id}'", code="resource_missing", param=param)


def wrong_state(message: str, *, code: str | None = None, param: str | None = None) -> StripeError:
    """A 400 about an object that is not in a state for this."""
    return StripeError(400, "invalid_request_error", message, code=code, param=param)


def not_modelled(what: str) -> StripeError:
    """Stripe has it, this stand-in does not: said plainly, with 501, never answered with a plausible fake."""
    return StripeError(501, "api_error", f"The local Stripe does not model {what}.", code=NOT_MODELLED)
