"""`farebox customers`: who has subscribed, ending a subscription, and what operators have done."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from farebox.app import open_provider, open_settlement
from farebox.billing.cancel import cancel_subscriptions, require_running
from farebox.billing.change import change_plan, drop_change
from farebox.cli.context import (
    AccountArgument,
    ActorOption,
    ConfigOption,
    JsonOption,
    audited,
    ledger,
    require_account,
    say_if_cut,
)
from farebox.cli.usage import ShowUnlessNamed
from farebox.domain.accounts import Subscription, current_subscription
from farebox.errors import AccountUnknown, InputInvalid
from farebox.store.sql import SqlStore
from farebox.terminal import OUT, moment, print_json, print_rows

__all__ = ["ACCOUNTS_SHOWN_MAX", "AUDIT_SHOWN_MAX", "ListUnlessNamed", "customers_app"]

ACCOUNTS_SHOWN_MAX: Final = 1_000
AUDIT_SHOWN_MAX: Final = 1_000


class ListUnlessNamed(ShowUnlessNamed):
    """`farebox customers` is `farebox customers list`."""

    unnamed = "list"


customers_app = typer.Typer(cls=ListUnlessNamed, help="Who has subscribed. Alone it lists the accounts.")


@customers_app.command("list")
def customers_list(
    config: ConfigOption = None,
    audit: Annotated[bool, typer.Option("--audit", help="What operators have done instead, newest first.")] = False,
    account: Annotated[str, typer.Option(help="With --audit: only what was done to this account.")] = "",
    as_json: JsonOption = False,
) -> None:
    """The accounts, their subscriptions and keys."""
    with ledger(config) as (settings, store, clock, _entropy):
        if audit:
            _print_audit(store, account, as_json=as_json)
            return
        rows = []
        for one in store.accounts(limit=ACCOUNTS_SHOWN_MAX):
            found = current_subscription(store.subscriptions(one.id), clock.now_at(), settings.past_due_grace_seconds)
            rows.append(
                {
                    "account": one.id,
                    "email": one.email,
                    "customer": one.customer_id,
                    "plan": found.plan if found is not None else None,
                    "status": found.status if found is not None else None,
                    "keys": len(store.keys(one.id)),
                    "created_at": one.created_at,
                }
            )
    print_rows(rows, as_json=as_json, empty="Nobody has subscribed yet.")
    say_if_cut(rows, ACCOUNTS_SHOWN_MAX)


def _print_audit(store: SqlStore, account: str, *, as_json: bool) -> None:
    if account:
        require_account(store, account)
    rows = [
        {
            "done_at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": dict(entry.detail)
            if as_json
            else ", ".join(f"{name}={value}" for name, value in entry.detail.items()),
        }
        for entry in store.audit(account or None, limit=AUDIT_SHOWN_MAX)
    ]
    print_rows(rows, as_json=as_json, empty="No operator has done anything yet.")
    say_if_cut(rows, AUDIT_SHOWN_MAX)


@customers_app.command("cancel")
def customers_cancel(
    account: AccountArgument,
    config: ConfigOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="At once: settle the usage to the last unit, end, and invoice it.")
    ] = False,
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """End an account's subscription at the end of its period, or now."""
    with ledger(config) as (settings, store, clock, entropy):
        found = store.account(account)
        if found is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        provider = open_provider(settings)
        require_running(store, provider, clock, found)
        audit = audited(clock, entropy, "subscription.cancel", account, actor)

        def cancel() -> tuple[Subscription, ...]:
            store.add_audit(audit.with_detail(when="now" if now else "period_end"))
            return cancel_subscriptions(store, provider, clock, found, at_period_end=not now)

        after = open_settlement(settings, store, provider, clock, entropy).run(found, cancel) if now else cancel()
    if as_json:
        print_json({"account": account, "subscriptions": [_row(s) for s in after]})
        return
    for subscription in after:
        end = subscription.period.end if subscription.period is not None else 0
        ends = f"ends at {moment(end)}" if subscription.cancel_at_period_end else f"is {subscription.status}"
        OUT.print(f"{subscription.id} of {account} {ends}.", highlight=False)


@customers_app.command("change")
def customers_change(
    account: AccountArgument,
    plan: Annotated[str, typer.Argument(help="The plan of farebox.toml to change to.")] = "",
    config: ConfigOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="At once: settle the usage to the last unit at the old prices, then change.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Give up a change that was to come.")] = False,
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """Change an account's plan at the end of its period, or now."""
    if bool(plan) == drop or (drop and now):
        raise InputInvalid("Name the plan to change to, or give --drop and no plan.")
    with ledger(config) as (settings, store, clock, entropy):
        found = store.account(account)
        if found is None:
            raise AccountUnknown(f"There is no account {account!r}. `farebox customers` lists them.")
        provider = open_provider(settings)
        when = "never" if drop else "now" if now else "period_end"
        audit = audited(clock, entropy, "subscription.change", account, actor)

        def note(refusal: str = "") -> None:
            overruled = {"overruled": refusal} if refusal else {}
            store.add_audit(audit.with_detail(plan=plan, when=when, **overruled))

        if drop:
            note()
            after = drop_change(store, provider, clock, found)
        else:
            settle = open_settlement(settings, store, provider, clock, entropy).run if now else None
            after = change_plan(store, provider, clock, settings.catalog, found, plan, settle=settle, overrule=note)
    if as_json:
        print_json({"account": account, "subscriptions": [_row(after)]})
        return
    end = after.period.end if after.period is not None else 0
    coming = f", and changes to {after.next_plan} at {moment(end)}" if after.next_plan else ""
    OUT.print(f"{after.id} of {account} has plan {after.plan}{coming}.", highlight=False, soft_wrap=True)


def _row(subscription: Subscription) -> dict[str, object]:
    shown = ("id", "plan", "status", "cancel_at_period_end", "next_plan")
    return {name: value for name, value in asdict(subscription).items() if name in shown}
