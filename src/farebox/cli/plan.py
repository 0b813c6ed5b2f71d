"""`farebox plan`: is farebox.toml right, what does it sell, and its form for editors."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from farebox.cli.context import JsonOption
from farebox.config import config_path
from farebox.configcheck import CheckedFile, Fault, about, check_file, located
from farebox.configschema import file_schema
from farebox.domain.advice import advice_on
from farebox.domain.catalog import Catalog, Fee, Plan, Sold, format_minor
from farebox.domain.words import price_in_words
from farebox.terminal import ERR, OUT, print_json, print_rows, printable

__all__ = ["plan_app"]

plan_app = typer.Typer(no_args_is_help=True, help="Check farebox.toml, and describe its form to editors.")


@plan_app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="farebox.toml; else FAREBOX_CONFIG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say all that is wrong with farebox.toml, with line and hint, or what it sells. Exit code 1 when something is."""
    checked = check_file(config_path(file))
    odd: tuple[Fault, ...] = ()
    if checked.catalog is not None and not checked.faults:
        odd = located((Fault(one.path, one.message, one.hint) for one in advice_on(checked.catalog)), checked.text)
    if as_json:
        print_json([_row(one, "error") for one in checked.faults] + [_row(one, "warning") for one in odd])
    else:
        for one in checked.faults:
            _show(one, checked, "bold red")
        if checked.catalog is not None and not checked.faults:
            print_rows(_sold(checked.catalog), as_json=False, empty="It sells nothing yet.")
        for one in odd:
            _show(one, checked, "yellow")
        ERR.print(
            f"{checked.source}: faults: {len(checked.faults)}, warnings: {len(odd)}", style="dim", highlight=False
        )
    if checked.faults:
        raise typer.Exit(1)


@plan_app.command()
def schema() -> None:
    """Print the JSON Schema of farebox.toml, by which an editor completes and checks it."""
    sys.stdout.write(json.dumps(file_schema(), indent=2, ensure_ascii=False) + "\n")


def _row(fault: Fault, severity: str) -> dict[str, Any]:
    return {"severity": severity, **asdict(fault), "hint": _hint(fault) or None}


def _hint(fault: Fault) -> str:
    """What to write, or else what the setting is for."""
    return fault.hint or about(fault.path)


def _show(fault: Fault, checked: CheckedFile, style: str) -> None:
    """The place and what is wrong there, the line itself with a mark below, and the hint."""
    place = f"{checked.source}:{fault.line}:{fault.column}" if fault.line is not None else checked.source
    head = f"{fault.path}: {fault.message}" if fault.path else fault.message
    shown = Text.assemble((place, "bold"), " ", (printable(head), style))
    if fault.line is not None and fault.column is not None:
        lines = checked.text.split("\n")
        line = lines[fault.line - 1] if fault.line <= len(lines) else ""
        shown.append(f"\n{fault.line:>5} │ ", "dim").append(printable(line.replace("\t", " ").rstrip()))
        shown.append("\n      │ ", "dim").append(" " * (fault.column - 1) + "^", style)
    if hint := _hint(fault):
        shown.append(f"\n      → {printable(hint)}")
    OUT.print(shown, soft_wrap=True)


def _sold(catalog: Catalog) -> list[dict[str, Any]]:
    return [
        {"plan": offer.name, "every": offer.interval, "for": what, "price": price}
        for plan in catalog.plans.values()
        for offer in plan.offers
        for what, price in _offered(offer, catalog)
    ]


def _offered(offer: Plan, catalog: Catalog) -> list[tuple[str, str]]:
    told = [(_what(sold, offer, catalog), price_in_words(sold, offer.currency)) for sold in offer.sold()]
    if offer.minimum:
        told.append(("at least", format_minor(offer.minimum, offer.currency)))
    return told


def _what(sold: Sold, offer: Plan, catalog: Catalog) -> str:
    if isinstance(sold, Fee):
        return f"{offer.title}, once" if sold.kind == "setup" else offer.title
    return catalog.meters[sold.meter].title
