"""What a request asks: its body as JSON or as a form, checked, and what its sender wants to see."""

import json
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from pydantic import BaseModel, ValidationError

from farebox.errors import InputInvalid
from farebox.web.limits import BODY_BYTES_MAX, bounded_body

__all__ = ["asked_body", "invalid_input", "is_form", "refuse_cross_site", "wants_page"]

_FORM: Final = "application/x-www-form-urlencoded"
_Asked = TypeVar("_Asked", bound=BaseModel)


async def asked_body(request: Request, model: type[_Asked]) -> _Asked:
    """The body as JSON or as a form, checked. An empty body is an empty object; InputInvalid says what is wrong."""
    raw = await bounded_body(request, BODY_BYTES_MAX)
    try:
        if is_form(request):
            found: Any = dict(parse_qsl(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=20))
        else:
            found = json.loads(raw.decode("utf-8")) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise InputInvalid("The body is neither JSON nor a form.") from None
    if not isinstance(found, dict):
        raise InputInvalid("The body must be a JSON object.")
    if is_form(request) and raw.lstrip().startswith(b"{"):
        raise InputInvalid("The body looks like JSON but came as a form. Send `Content-Type: application/json`.")
    try:
        return model.model_validate(found, strict=not is_form(request))  # a form has nothing but text
    except ValidationError as error:
        raise invalid_input(list(error.errors())) from None


def invalid_input(faults: list[Any]) -> InputInvalid:
    # A field's name may be the sender's own, of any length.
    said = [
        f"{'.'.join(str(part)[:40] for part in fault['loc'][:5]) or 'body'}: {fault['msg']}" for fault in faults[:5]
    ]
    return InputInvalid("; ".join(said) + ".")


def is_form(request: Request) -> bool:
    return _content_type(request) == _FORM


def _is_json(request: Request) -> bool:
    return _content_type(request) == "application/json"


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def wants_page(request: Request) -> bool:
    """A browser that posts a form or asks for HTML before JSON gets pages."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and not accept.startswith("application/json")


def refuse_cross_site(request: Request, public_url: str, *, same_site: bool = False) -> None:
    """Refuse a form that was posted from a page of another site. InputInvalid.

    With `same_site` a page of the seller's own site may post it: `www.example.com` and `api.example.com` are one site.
    A browser that does not send Sec-Fetch-Site sends an Origin, which must be that of `public_url`. JSON is allowed:
    a form cannot send it, and a script of another site needs the seller's leave (CORS).
    """
    if _is_json(request):
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = urlsplit(public_url)
    own_site = ("same-origin", "none", "same-site" if same_site else "none")
    trusted = site in own_site if site is not None else origin in (None, f"{own.scheme}://{own.netloc}")
    if not trusted:
        raise InputInvalid("This form was sent from another site. Open this page directly and try again.")
