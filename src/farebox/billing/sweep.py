"""The sweep: every account's subscriptions are fetched again in turn, for webhooks that never came (I10)."""

from typing import Final

import structlog

from farebox.billing.inbox import refresh_account
from farebox.ports import Clock, Provider, Store, is_away

__all__ = ["SWEEP", "SWEEP_ACCOUNTS_MAX", "sweep"]

SWEEP: Final = "sweep"  # the name under which the ledger keeps how far the round has come
SWEEP_ACCOUNTS_MAX: Final = 20

_log = structlog.get_logger("farebox.sweep")


def sweep(store: Store, provider: Provider, clock: Clock) -> str:
    """Fetch the next few accounts and return the last one done ("" at the end of a round), as the ledger keeps it.

    An account that fails is named in the log and comes again in the next round; the others do not wait for it. With
    Stripe away for everybody the round stays before the account at which that was seen, and goes on there. With the
    ledger away it is not kept how far this step came: StoreError, and the next step begins where this one did.
    """
    after = store.take_turn(SWEEP, now=clock.now_at(), seconds=0) or ""
    accounts = store.accounts(limit=SWEEP_ACCOUNTS_MAX, after=after)
    done = after
    for account in accounts:
        try:
            refresh_account(store, provider, clock, account)
        except Exception as error:
            if is_away(provider, error):
                _log.warning("sweep_paused", account=account.id, reason=str(error))
                break
            _log.warning("sweep_failed", account=account.id, reason=str(error) or repr(error))
        done = account.id
    else:
        done = done if len(accounts) == SWEEP_ACCOUNTS_MAX else ""
    store.keep_place(SWEEP, done)
    return done
