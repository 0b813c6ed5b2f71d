"""`farebox keys`: list, create, rotate and revoke an account's keys."""

from typing import Annotated

import typer

from farebox.billing.keys import OVERLAP_SECONDS, create_key, revoke_key, rotate_key
from farebox.cli.context import AccountArgument, ActorOption, ConfigOption, JsonOption, audited, ledger, require_account
from farebox.terminal import OUT, print_json, print_key, print_rows

__all__ = ["keys_app"]

keys_app = typer.Typer(help="The API keys of an account.", no_args_is_help=True)


@keys_app.command("list")
def keys_list(account: AccountArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """An account's keys: how to recognise them, never the keys themselves."""
    with ledger(config) as (_, store, _clock, _entropy):
        require_account(store, account)
        names = ("id", "name", "prefix", "last_four", "created_at", "expires_at", "revoked_at")
        rows = [{name: getattr(key, name) for name in names} for key in store.keys(account)]
    print_rows(rows, as_json=as_json, empty="The account has no keys.")


@keys_app.command("create")
def keys_create(
    account: AccountArgument,
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """A further key. It is shown this once."""
    with ledger(config) as (settings, store, clock, entropy):
        require_account(store, account)
        secret, row = create_key(
            store,
            clock,
            entropy,
            settings.require_peppers(),
            live=settings.live,
            account_id=account,
            name=name,
            audit=audited(clock, entropy, "key.create", account, actor),
        )
    print_key(secret.reveal(), row.id, as_json=as_json)


@keys_app.command("rotate")
def keys_rotate(
    account: AccountArgument,
    key: Annotated[str, typer.Argument(help="A key's id, key_…")],
    config: ConfigOption = None,
    overlap_seconds: Annotated[int, typer.Option(help="How long the old key works on.")] = OVERLAP_SECONDS,
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """A new key in the place of an old one, which works on for the overlap."""
    with ledger(config) as (settings, store, clock, entropy):
        secret, row = rotate_key(
            store,
            clock,
            entropy,
            settings.require_peppers(),
            live=settings.live,
            account_id=account,
            key_id=key,
            overlap_seconds=overlap_seconds,
            audit=audited(clock, entropy, "key.rotate", account, actor),
        )
    print_key(secret.reveal(), row.id, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    account: AccountArgument,
    key: Annotated[str, typer.Argument(help="A key's id, key_…")],
    config: ConfigOption = None,
    actor: ActorOption = "",
    as_json: JsonOption = False,
) -> None:
    """End a key at once, in every process that serves this ledger."""
    with ledger(config) as (_, store, clock, entropy):
        audit = audited(clock, entropy, "key.revoke", account, actor)
        revoke_key(store, clock, account_id=account, key_id=key, audit=audit)
    if as_json:
        print_json({"revoked": key})
    else:
        OUT.print(f"{key} is revoked.")
