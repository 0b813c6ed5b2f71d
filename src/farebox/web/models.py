"""What the routes take and answer, as OpenAPI shows it. Amounts in minor units as integers, exact prices as strings."""

from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from farebox.billing.invoices import MeterCost, UsageReport
from farebox.billing.keys import KEY_NAME_CHARACTERS_MAX, OVERLAP_SECONDS, OVERLAP_SECONDS_MAX
from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import format_minor
from farebox.domain.keys import ApiKey
from farebox.domain.usage import Period
from farebox.ports import Invoice

__all__ = [
    "KEY_IF_ANY",
    "SENT_ON",
    "SHOWN_AS_PAGE",
    "SIGNED_EVENT",
    "CheckoutAnswer",
    "CheckoutRequest",
    "ClaimRequest",
    "EarlierUsage",
    "EventResult",
    "EventsAnswer",
    "InvoiceAnswer",
    "InvoiceLine",
    "KeyAnswer",
    "KeyRequest",
    "KeyRow",
    "KeysAnswer",
    "MeterUsage",
    "PayRequest",
    "Problem",
    "RotateRequest",
    "SubscriptionAnswer",
    "SubscriptionRequest",
    "UrlAnswer",
    "UsageAnswer",
    "WebhookAnswer",
    "body_of",
    "invoice_answer",
    "key_row",
    "subscription_answer",
    "usage_answer",
]


KEY_IF_ANY: Final[dict[str, Any]] = {"security": [{}, {"HTTPBearer": []}, {"APIKeyHeader": []}]}
SENT_ON: Final[dict[int | str, dict[str, Any]]] = {
    303: {"description": "To a form: on to Stripe", "headers": {"Location": {"schema": {"type": "string"}}}}
}
SHOWN_AS_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    201: {"content": {"text/html": {"schema": {"type": "string"}}}}
}
SIGNED_EVENT: Final[dict[str, Any]] = {
    "parameters": [
        {"name": "Stripe-Signature", "in": "header", "required": True, "schema": {"type": "string", "minLength": 1}}
    ],
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CheckoutRequest(_Asked):
    plan: str = Field(max_length=40, description="A plan's name")
    currency: str = Field(default="", max_length=10, description="One of the plan's currencies; empty: its main one")
    email: str = Field(default="", description="Prefills Checkout. Never selects an account")
    reference: str = Field(default="", description="The caller's own name for this buyer")


class CheckoutAnswer(BaseModel):
    id: str
    url: str


class SubscriptionRequest(_Asked):
    plan: str = Field(max_length=40, description="The plan to change to")
    when: Literal["period_end", "now"] = Field(
        default="period_end", description="When the running period ends, or at once: that takes some seconds"
    )


class ClaimRequest(_Asked):
    session_id: str = Field(max_length=200)
    # The id of the key that this claim revokes, "" for none: a page that is posted again by a reload revokes nothing.
    replaces: str | None = Field(default=None, max_length=200)


class PayRequest(_Asked):
    key: str = Field(max_length=200)


class KeyRequest(_Asked):
    name: str = Field(default="", max_length=KEY_NAME_CHARACTERS_MAX)


class RotateRequest(_Asked):
    overlap_seconds: int = Field(default=OVERLAP_SECONDS, ge=0, le=OVERLAP_SECONDS_MAX)


class KeyAnswer(BaseModel):
    key: str = Field(description="The key in clear, shown this once")
    id: str
    account: str
    plan: str | None = None


class KeyRow(BaseModel):
    id: str
    name: str
    prefix: str
    last_four: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    current: bool = Field(description="Whether this is the key that the request was made with")


class KeysAnswer(BaseModel):
    keys: list[KeyRow]


class WebhookAnswer(BaseModel):
    received: bool
    stored: bool


class EventResult(BaseModel):
    id: str | None = Field(description="The event's own, or null when it has none that can be shown")
    status: Literal["recorded", "duplicate", "rejected"]
    code: str | None = Field(default=None, description="Why it was rejected")
    detail: str | None = None


class EventsAnswer(BaseModel):
    results: list[EventResult] = Field(description="One for each event, in their order")


class UrlAnswer(BaseModel):
    url: str


class MeterUsage(BaseModel):
    meter: str
    quantity: int
    calls: int
    unit_amount: str | None = Field(description="Exact, in minor units; null where the price is not by the unit alone")
    price: str = Field(description="In words")
    amount: int = Field(description="Cost so far, in minor units")
    limit: int | None = None


class EarlierUsage(BaseModel):
    """What was used in the period before the plan was changed, at the prices of then."""

    plan: str
    period_start: int
    period_end: int
    meters: list[MeterUsage]


class UsageAnswer(BaseModel):
    account: str
    plan: str
    status: str
    cancel_at_period_end: bool
    period_start: int
    period_end: int
    currency: str
    meters: list[MeterUsage]
    earlier: list[EarlierUsage]
    base: int = Field(description="The fee for the interval, in minor units, in the total")
    minimum: int = Field(description="The least that the period comes to, in minor units; not in the total")
    next_plan: str | None = Field(description="What the plan changes to when the period ends")
    total: int = Field(description="Cost so far, in minor units")
    total_text: str
    projected_total: int | None = Field(
        description="What the period comes to if it goes on as so far, in minor units; null while too early to say"
    )
    projected_text: str | None


class SubscriptionAnswer(BaseModel):
    id: str
    plan: str
    status: str
    period_start: int
    period_end: int
    cancel_at_period_end: bool
    next_plan: str | None = Field(description="What the plan changes to when the period ends")


class InvoiceLine(BaseModel):
    description: str
    quantity: int
    amount: int


class InvoiceAnswer(BaseModel):
    id: str | None
    currency: str
    status: str
    total: int = Field(description="In minor units")
    amount_due: int
    period_start: int
    period_end: int
    lines: list[InvoiceLine]


class Problem(BaseModel):
    """RFC 9457, with a stable code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    pay_url: str | None = None
    plans: list[str] | None = None


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """OpenAPI's description of a body that may come as JSON or as a form."""
    schema = model.model_json_schema()
    kinds = ("application/json", "application/x-www-form-urlencoded")
    return {"requestBody": {"required": required, "content": {kind: {"schema": schema} for kind in kinds}}}


def key_row(key: ApiKey, *, current: bool) -> KeyRow:
    """How a key shows in a list: never the key itself."""
    return KeyRow(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        last_four=key.last_four,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        current=current,
    )


def usage_answer(account: Account, report: UsageReport) -> UsageAnswer:
    """The period so far: quantities, and money in minor units and in words."""
    subscription = report.subscription
    return UsageAnswer(
        account=account.id,
        plan=subscription.plan,
        status=subscription.status,
        cancel_at_period_end=subscription.cancel_at_period_end,
        period_start=report.period.start,
        period_end=report.period.end,
        currency=report.currency,
        meters=_meters(report.meters),
        earlier=[
            EarlierUsage(
                plan=part.plan,
                period_start=part.period.start,
                period_end=part.period.end,
                meters=_meters(part.meters),
            )
            for part in report.earlier
        ],
        base=report.base,
        minimum=report.minimum,
        next_plan=subscription.next_plan or None,
        total=report.total,
        total_text=_money(report.total, report.currency),
        projected_total=report.projected_total,
        projected_text=_money(report.projected_total, report.currency) if report.projected_total is not None else None,
    )


def _money(amount: int, currency: str) -> str:
    return format_minor(amount, currency) if currency else "0"


def _meters(costs: Iterable[MeterCost]) -> list[MeterUsage]:
    return [
        MeterUsage(
            meter=m.meter,
            quantity=m.quantity,
            calls=m.calls,
            unit_amount=f"{m.unit_amount:f}" if m.unit_amount is not None else None,
            price=m.price,
            amount=m.amount,
        )
        for m in costs
    ]


def subscription_answer(found: Subscription) -> SubscriptionAnswer:
    """A subscription as its buyer sees it."""
    period = found.period or Period(found.created_at, found.created_at)
    return SubscriptionAnswer(
        id=found.id,
        plan=found.plan,
        status=found.status,
        period_start=period.start,
        period_end=period.end,
        cancel_at_period_end=found.cancel_at_period_end,
        next_plan=found.next_plan or None,
    )


def invoice_answer(invoice: Invoice) -> InvoiceAnswer:
    """An invoice as its buyer sees it."""
    return InvoiceAnswer(
        id=invoice.id,
        currency=invoice.currency,
        status=invoice.status,
        total=invoice.total,
        amount_due=invoice.amount_due,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        lines=[InvoiceLine(description=d, quantity=q, amount=a) for d, q, a in invoice.lines],
    )
