"""`farebox quote`: what a period's invoice would come to, from farebox.toml alone."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from farebox.billing.checkout import chosen_offer
from farebox.cli.context import ConfigOption, JsonOption
from farebox.config import load_catalog
from farebox.domain.catalog import Plan, format_minor
from farebox.domain.rating import described, lines_of, total_of
from farebox.errors import InputInvalid, MeterUnknown, QuantityInvalid
from farebox.terminal import print_json, print_rows

__all__ = ["quote"]

_QUANTITY_MAX: Final = 10**18
_WHOLE: Final = re.compile(r"[0-9]{1,19}")


def quote(
    plan: Annotated[str, typer.Argument(help="A plan of farebox.toml.")],
    usage: Annotated[list[str] | None, typer.Argument(metavar="METER=QUANTITY", help="What is used of it.")] = None,
    config: ConfigOption = None,
    currency: Annotated[str, typer.Option(help="One of the plan's currencies, instead of its main one.")] = "",
    first: Annotated[bool, typer.Option("--first", help="The first invoice, with what is charged once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What an invoice of a plan comes to, line by line, for so much usage. Needs neither Stripe nor the ledger."""
    catalog = load_catalog(config)
    chosen = chosen_offer(catalog, plan, currency)
    lines = lines_of(chosen, _used(chosen, usage or ()), first=first)
    total = total_of(lines)
    if as_json:
        rows = [
            {"description": described(n, chosen, catalog), "meter": n.meter, "quantity": n.quantity, "amount": n.amount}
            for n in lines
        ]
        print_json({"currency": chosen.currency, "total": total, "lines": rows})
        return
    shown = [
        {"line": described(line, chosen, catalog), "amount": format_minor(line.amount, chosen.currency)}
        for line in lines
    ]
    print_rows([*shown, {"line": "Total", "amount": format_minor(total, chosen.currency)}], as_json=False, empty="")


def _used(plan: Plan, usage: Sequence[str]) -> dict[str, int]:
    """The quantities by meter, each meter at most once."""
    meters = [price.meter for price in plan.prices]
    known = ", ".join(sorted(meters))
    used: dict[str, int] = {}
    for text in usage:
        meter, sign, quantity = text.partition("=")
        if not sign:
            raise InputInvalid(f"{text[:60]!r} is not a meter and a quantity; write it like {meters[0]}=1000.")
        if meter not in meters:
            raise MeterUnknown(f"Plan {plan.name!r} has no price for a meter {meter[:60]!r} (it has: {known}).")
        if meter in used:
            raise InputInvalid(f"{meter} is named twice. Give each meter one quantity.")
        if not _WHOLE.fullmatch(quantity) or int(quantity) > _QUANTITY_MAX:
            raise QuantityInvalid(
                f"{meter}: {quantity[:40]!r} is not a whole number from 0 to {_QUANTITY_MAX}, in plain digits."
            )
        used[meter] = int(quantity)
    return used
