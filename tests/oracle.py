"""Who is right in the end: knows what clients saw and what Stripe's book says, and imports nothing that it judges.
The invariants are those of reliability.md §1. What timed out is unknown: it may have happened or not."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from tests.told import ACCEPTED, REFUSED, UNKNOWN, Counted, Sealed, Units, Used

__all__ = ["ACCEPTED", "REFUSED", "UNKNOWN", "Counted", "Oracle", "Sealed"]

STALE_MS = 2_000  # no process lets a revoked key in for longer than this
ANSWER_MS = 25_000  # no client waits longer for an answer than this, but for what its process was stopped for


class Oracle:
    """Told of everything as it happens. `violations` is what it has against the system, each with its invariant."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.lost = self.doubled = 0
        self.book: dict[str, Counted] = {}
        self.accepted: dict[tuple[str, str], int] = defaultdict(int)
        self.possible: dict[tuple[str, str], int] = defaultdict(int)  # accepted, unknown, or not answered yet
        self._calls: dict[int, tuple[str, str, str, int, Mapping[str, int]]] = {}
        self._revoked: dict[str, tuple[int, str]] = {}
        self._frozen: dict[str, tuple[int, int]] = {}

    def began(self, call: int, account: str, key: str, process: str, at_ms: int, charges: Mapping[str, int]) -> None:
        """A client sends a paid call that will cost `charges`, by meter, if it is served."""
        self._calls[call] = (account, key, process, at_ms, charges)
        for meter, quantity in charges.items():
            self.possible[account, meter] += quantity

    def ended(self, call: int, how: str, waited_ms: int = 0) -> None:
        account, key, process, began_ms, charges = self._calls.pop(call)
        for meter, quantity in charges.items():
            self.accepted[account, meter] += quantity if how == ACCEPTED else 0
            self.possible[account, meter] -= quantity if how == REFUSED else 0
        at_ms, where = self._revoked.get(key, (began_ms + 1, ""))
        if how == ACCEPTED and began_ms > at_ms + (0 if where == process else STALE_MS):
            self.against("I9", f"{key} was let in {began_ms - at_ms} ms after it was revoked")
        if waited_ms > ANSWER_MS:
            self.against("I18", f"call {call} waited {waited_ms} ms for an answer")

    def revoked(self, key: str, process: str, at_ms: int) -> None:
        self._revoked.setdefault(key, (at_ms, process))

    def counted(self, entry: Counted) -> None:
        if entry.identifier in self.book:
            self.doubled += 1
            self.against("I4", f"{entry.identifier} was counted twice")
        self.book[entry.identifier] = entry

    def look_at_usage(self, ledger: Mapping[tuple[str, str], int]) -> None:
        """I1 and I2, at any moment: by account and meter, no less than was accepted, no more than was asked for."""
        for name in self.possible.keys() | ledger.keys():
            low, found, high = self.accepted[name], ledger.get(name, 0), self.possible[name]
            if not low <= found <= high:
                self.lost += max(0, low - found)
                self.against("I1" if found < low else "I2", f"{name}: {found} used, {low} accepted, {high} asked for")

    def look_at_events(self, used: Used, events: Iterable[Sealed]) -> None:
        """I3, I4, I6, at any moment: what is sealed is frozen, was used, and is known to Stripe if it is delivered."""
        left = dict(used)
        for event in events:
            before = self._frozen.setdefault(event.identifier, (event.value, event.timestamp))
            if before != (event.value, event.timestamp):
                self.against("I4", f"{event.identifier} was {before}, then {(event.value, event.timestamp)}")
            if not event.correction:
                left[event[1:4]] = left.get(event[1:4], 0) - event.value
            entry = self.book.get(event.identifier)
            if event.state == "delivered" and entry is None:
                self.lost += event.value
                self.against("I3", f"{event.identifier} is called delivered, and Stripe does not know it")
            if entry is not None and entry != (event.identifier, event.account, event.meter, *before):
                self.against("I3", f"{entry} was counted for {event}")
        for name, rest in left.items():
            if rest < 0:
                self.doubled -= rest
                self.against("I3", f"{name} is sealed for {-rest} more than was used")

    def look_at_end(self, used: Used, events: Iterable[Sealed], billed: int, late: int = 0, missed: int = 0) -> None:
        """I3, I5 when all is healed: used = counted (but what a final invoice `missed`) + late + parked; none waits."""
        known = {event.identifier: event for event in events}
        parked = [event for event in known.values() if event.state != "delivered"]
        for event in parked:
            if event.state not in ("doubtful", "rejected", "withdrawn") or not event.reason:
                self.against("I5", f"{event.identifier} is still {event.state} ({event.reason or 'no reason'})")
            if event.state == "rejected" and event.identifier in self.book:
                self.against("I3", f"{event.identifier} is called rejected, and Stripe has counted it")
        all_of_it = sum(used.values()) + sum(event.value for event in known.values() if event.correction)
        counted = sum(entry.value for entry in self.book.values())
        reason = sum(event.value for event in parked if event.identifier not in self.book)
        if not 0 <= all_of_it - (counted - missed + late) <= reason:
            self.against("I3", f"{all_of_it} used, {counted} counted, {missed} missed, {late} late, {reason} parked")
        if strange := self.book.keys() - known.keys():
            self.against("I2", f"Stripe has counted what the ledger does not know: {sorted(strange)[:3]}")
        if billed != counted:
            self.against("I3", f"Stripe's meters say {billed}, and its book says otherwise")

    def look_at_bills(self, due: Units, billed: Units, named: Units) -> None:
        """I15 and I7 when all is healed: what was used in periods that are over is `billed` by final invoices, late
        items among them, or explained by something that is `named`; and nothing is billed that was not used."""
        for name in due.keys() | billed.keys():
            missing, excuse = due.get(name, 0) - billed.get(name, 0), named.get(name, 0)
            if abs(missing) > excuse:
                self.lost, self.doubled = self.lost + max(0, missing), self.doubled + max(0, -missing)
                self.against("I15" if missing > 0 else "I7", f"{name}: {missing} units not billed, {excuse} named")

    def look_at_the_rest(self, waiting: Mapping[str, int], alive: set[str]) -> None:
        """I16: `waiting` is what others still wait for while one account has been broken for a day, by kind. I18: no
        process that is `alive` still owes a client an answer."""
        if any(waiting.values()):
            self.against("I16", f"others wait although only one account is broken: {waiting}")
        for call, (account, _, process, _, _) in self._calls.items():
            if process in alive:
                self.against("I18", f"call {call} of {account} never got an answer from {process}")

    def against(self, invariant: str, what: str) -> None:
        self.violations.append(f"{invariant}: {what}")
