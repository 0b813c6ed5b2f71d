"""What the reconciler compares: how far a period's invoices are, and which meters Stripe counts under one name."""

from dataclasses import dataclass

from farebox.domain.balance import Balance, Unbilled, merged
from farebox.domain.catalog import Catalog
from farebox.domain.invoices import BilledInvoice, PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.ports import Store

__all__ = ["EventNames", "MeterGroup", "PeriodState"]


@dataclass(frozen=True, slots=True)
class PeriodState:
    """How far the invoices of a period are. `over`: it has ended, and the ledger has not closed it."""

    period: BillingPeriod
    bill: PeriodBill | None
    over: bool
    ended: bool = False
    draft: BilledInvoice | None = None

    def unbilled(self, period: BillingPeriod, meter: str, quantity: int) -> Unbilled | None:
        """What of the meter no final invoice bills, if it costs anything; `period` from where the meter runs in it."""
        if not self.over or not period.owes(meter, quantity):
            return None
        # A part of an interval is on the invoice of the whole, while the subscription lives.
        due_at = period.end if self.ended else max(period.end, *(item.period.end for item in period.items))
        return Unbilled(quantity, due_at, self.ended, self.draft.id if self.draft is not None else None)


@dataclass(frozen=True, slots=True)
class MeterGroup:
    """The meters that Stripe counts under one name, as one: `meter` is the one with a price, if any has."""

    meter: str
    meters: tuple[str, ...]
    event_name: str
    balance: Balance


class EventNames:
    """Under which name Stripe counts a meter: the file's, or, for one that is not in it, that of its meter events."""

    def __init__(self, catalog: Catalog, store: Store, account_id: str) -> None:
        self._catalog = catalog
        self._store = store
        self._account_id = account_id
        self._sent: dict[str, str] | None = None

    def of(self, meter: str) -> str:
        known = self._catalog.meters.get(meter)
        if known is not None:
            return known.event_name
        if self._sent is None:
            self._sent = self._store.event_names(self._account_id)
        return self._sent.get(meter, meter)

    def groups(self, period: BillingPeriod, balances: dict[str, Balance]) -> list[MeterGroup]:
        by_name: dict[str, list[str]] = {}
        for meter in balances:
            by_name.setdefault(self.of(meter), []).append(meter)
        found = []
        for name, meters in by_name.items():
            priced = [meter for meter in meters if period.item_of(meter) is not None]
            if len(priced) > 1 or len(meters) == 1:
                found += [MeterGroup(meter, (meter,), name, balances[meter]) for meter in meters]
            else:
                of_all = merged(balances[meter] for meter in meters)
                found.append(MeterGroup((priced or meters)[0], tuple(meters), name, of_all))
        return found
