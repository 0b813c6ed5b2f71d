"""The form of farebox.toml as a JSON Schema, for editors: from the model that reads it, and what each setting is."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from farebox.configfile import FileModel

__all__ = ["about_setting", "file_schema"]

_REFERENCE: Final = re.compile(r"#/\$defs/(\w+)")
_RENAMED: Final = {"ge": "minimum", "le": "maximum"}  # pydantic leaves them as they are beside what may be absent
_AMOUNTS: Final = {
    "base": 'A flat fee for each interval, as text in major units: "29.00".',
    "setup_fee": "Charged once to each account that comes to the plan, as text in major units.",
    "minimum": "The least that a whole interval comes to, as text in major units.",
    "prices": "One price for each meter that the plan charges for: [[plans.NAME.prices]].",
}
_ABOUT: Final[Mapping[str, str]] = {
    "FileModel.http": "Where Farebox's own routes live, and where a key may stand.",
    "FileModel.stripe": "How Stripe is spoken to.",
    "FileModel.access": "Who may call.",
    "FileModel.reporting": "How usage gets to Stripe, and how it is compared.",
    "FileModel.ledger": "What the ledger's database must promise, and what happens while it is away.",
    "FileModel.events": "Who may record usage over HTTP.",
    "FileModel.meters": "What is counted: [meters.NAME].",
    "FileModel.changes": "When buyers may change plans by themselves.",
    "FileModel.plans": "What is sold: [plans.NAME].",
    "FileModel.routes": "What a call costs: [[routes]], the first match wins.",
    "Http.prefix": "Every route of Farebox lives under it. Begins with a slash and does not end with one.",
    "Http.preflight": 'Who answers a CORS preflight: "farebox" without permission, or "app".',
    "Http.credentials": 'Where a buyer\'s key may stand: "bearer", "x-api-key", "query:NAME".',
    "Stripe.mode": "When set, a key of the other mode is refused.",
    "Stripe.meter_events_per_second": "Meter events that a process sends one by one, each second at most.",
    "Stripe.stream_requests_per_second": "Requests of Stripe's stream of meter events; 0 does without it.",
    "Access.past_due_grace_days": "How long a subscription that is past due still gives access.",
    "Reporting.seal_seconds": "How often unreported usage is sealed into meter events.",
    "Reporting.late_usage": 'Usage that the final invoice lacks: "bill" it on the next one, or only "report" it.',
    "Reporting.reconcile_reads_per_hour": "How often the hourly comparison may ask Stripe; 0 switches it off.",
    "Ledger.allow_weak_durability": "Start on a PostgreSQL that could lose what it acknowledged. Never for real money.",
    "Ledger.on_store_loss": 'While the ledger is away: "refuse" paid calls, or "spool" them into a file.',
    "Ledger.spool_seconds_max": "How long calls go on while they are spooled.",
    "Ledger.spool_path": "The folder for the spool's files, on a local disk.",
    "Events.from": 'Whose usage events are taken: "operator", and "key" for buyers, who then record for themselves.',
    "Meter.title": 'What people read, at Stripe and on the plans page: "API calls".',
    "Meter.event_name": "The meter's event name at Stripe, for ever; the meter's own name when left out.",
    "Meter.unpriced": 'What becomes of calls on plans without a price for it: "refuse" or "free".',
    "Changes.upgrade": 'A buyer\'s change to a plan that ranks higher: "now", "period_end", or "operator" for never.',
    "Changes.downgrade": 'Any other change of a buyer\'s: "now", "period_end", or "operator" for never.',
    "Changes.order": "Plans, cheapest first, where base fees do not tell which one ranks higher.",
    "Plan.title": 'The product\'s name at Stripe and on the plans page: "Pay as you go".',
    "Plan.currency": 'The ISO 4217 code in small letters: "usd".',
    "Plan.interval": "How often the buyer is billed.",
    "Plan.currencies": "The same plan in other currencies: [plans.NAME.currencies.eur].",
    "Plan.trial_days": "Days that cost nothing, once to each account, with a checkout.",
    "Plan.card_required": "false: Checkout asks for a card only if something is due today.",
    "Plan.promotion_codes": "Whether buyers may enter promotion codes at Checkout.",
    "Plan.tax": "Whether Stripe Tax computes taxes on top.",
    "Plan.metadata": "Kept with the product and with each subscription at Stripe.",
    **{f"{table}.{name}": said for table in ("Plan", "Amounts") for name, said in _AMOUNTS.items()},
    "Price.meter": "A meter of this file, once in each plan.",
    "Price.unit_amount": 'What one unit costs, as text in major units: "0.01" is one cent.',
    "Price.mode": '"graduated": each unit costs what its tier says. "volume": all cost what the last one\'s tier says.',
    "Price.tiers": 'The tiers in ascending order; only the last one goes up to "inf".',
    "Price.package": "Units are sold in packages of a size.",
    "Tier.up_to": 'The last unit of the tier; "inf" in the last tier.',
    "Tier.unit_amount": 'For each unit in the tier, as text in major units: "0.002".',
    "Tier.flat_amount": 'Once, when the tier is reached, as text in major units: "5.00".',
    "Package.size": "How many units are in a package.",
    "Package.unit_amount": 'For each package, as text in major units: "0.02".',
    "Package.round": "Whether a begun package counts whole, or not at all.",
    "Route.match": 'A method and a path: "GET /api", "* /files/**".',
    "Route.access": '"public" asks for no key and counts nothing.',
    "Route.meter": "The meter that calls of this route are counted by.",
    "Route.quantity": "How many units a call costs; 1 when left out.",
    "Route.charges": "Several meters, and quantities that the answer tells: [{ meter = …, from = … }].",
    "Route.billed": 'Which statuses are billed: "2xx", "404". Only 2xx when left out.',
    "Charge.meter": "The meter, once in each route.",
    "Charge.quantity": "A fixed quantity; 1 when neither it nor from is given.",
    "Charge.from": 'Where the answer tells it: "header:NAME", "json:PATH", "bytes", "seconds", "milliseconds".',
    "Charge.minimum": "Billed before the answer leaves, and where it tells nothing.",
    "Charge.maximum": "A larger quantity is taken for a fault.",
    "Charge.strip": "Take the header out of the answer.",
}


def about_setting(model: type[BaseModel], name: str) -> str:
    """What a setting of a table is for, in a sentence; "" when nobody has said it."""
    said = _ABOUT.get(f"{_called(model.__name__)}.{name}", "")
    return said or next((f.description or "" for n, f in model.model_fields.items() if (f.alias or n) == name), "")


def file_schema() -> dict[str, Any]:
    """The schema of the whole file, draft 2020-12. What it refuses, Farebox refuses; whether the parts of a file fit
    together, only Farebox knows."""
    made = FileModel.model_json_schema()
    tables = {_called(name): _tidied(table) for name, table in made.pop("$defs").items()}
    whole = _tidied(made)
    for name, table in {**tables, "FileModel": whole}.items():
        for setting, form in table["properties"].items():
            if text := _ABOUT.get(f"{name}.{setting}"):
                form["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "farebox.toml",
        "description": "What an API sells, and how Farebox runs: see docs/reference/configuration.md of Farebox.",
        **whole,
        "$defs": tables,
    }


def _called(name: str) -> str:
    return name.removeprefix("_").removesuffix("Table")


def _tidied(form: Any) -> Any:
    """Without null, which TOML does not have, and without titles and descriptions made of names and code."""
    if isinstance(form, list):
        return [_tidied(one) for one in form]
    if not isinstance(form, dict):
        return _REFERENCE.sub(lambda found: f"#/$defs/{_called(found[1])}", form) if isinstance(form, str) else form
    if "properties" in form and isinstance(form["properties"], dict):
        settings = {name: _tidied(one) for name, one in form["properties"].items()}
        rest = {name: one for name, one in form.items() if name not in ("properties", "title", "description")}
        return {**_tidied(rest), "properties": settings}
    made = {_RENAMED.get(name, name): _tidied(one) for name, one in form.items() if name != "title"}
    if made.get("default") is None or isinstance(made["default"], dict):
        made.pop("default", None)
    if "anyOf" in made:
        kept = [one for one in made["anyOf"] if one != {"type": "null"}]
        del made["anyOf"]
        made |= {"anyOf": kept} if len(kept) > 1 else kept[0]
    return made
