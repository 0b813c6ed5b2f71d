"""Usage from anywhere: jobs, other processes, whatever is no call. Each event counts once for its account and id, in
the hour and the billing period in which it was used; a bad one never loses the others.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Final, Literal

from farebox.domain.accounts import boundaries_of
from farebox.domain.catalog import Meter
from farebox.domain.measures import said
from farebox.domain.restoring import LostSpan
from farebox.domain.usage import (
    KEY_RECORDS,
    Increment,
    KeySender,
    Recorded,
    UsageEvent,
    bucket_start,
    checked_quantity,
    record_conflict,
    whole_number,
)
from farebox.errors import (
    AccessRefused,
    AccountSettling,
    AccountUnknown,
    InputInvalid,
    MeterUnknown,
    QuantityInvalid,
    RecordConflict,
    RequestRefused,
    UsageError,
    UsageInLostTime,
)
from farebox.metering.lane import within
from farebox.metering.presence import Admissions
from farebox.metering.recorder import Recorder
from farebox.ports import Clock, Entropy, Store

__all__ = [
    "LOOK_SECONDS_MAX",
    "RECORDS_PER_COMMIT_MAX",
    "RECORD_AGE_SECONDS_MAX",
    "RECORD_AHEAD_SECONDS_MAX",
    "RECORD_ID_CHARACTERS_MAX",
    "Records",
]

RECORD_ID_CHARACTERS_MAX: Final = 200
LOOK_SECONDS_MAX: Final = 20
RECORD_AGE_SECONDS_MAX: Final = 34 * 86_400
RECORD_AHEAD_SECONDS_MAX: Final = 300
RECORDS_PER_COMMIT_MAX: Final = 100
_NAME_CHARACTERS_MAX: Final = 64
_OPERATION: Final = "record"
_Refusal = UsageError | RequestRefused | AccessRefused
_Refusals = (UsageError, RequestRefused, AccessRefused)
_Name = tuple[str, str]  # an account and its id for an event
_Values = dict[_Name, tuple[str, int]]  # a meter and a quantity
_Lost = Sequence[LostSpan]  # the times that a restore lost
_Good = tuple[int, UsageEvent, int]  # an event's number, itself, and when it was used


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an account's usage goes: the edges that split its hours, and since when it has been billed."""

    edges: tuple[int, ...]
    since_at: int | None


_Places = dict[str, _Place | _Refusal]


class Records:
    """Records events on the event loop; the store is read on the readers' threads."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        clock: Clock,
        meters: Mapping[str, Meter],
        admissions: Admissions,
        readers: Executor,
        entropy: Entropy,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._meters = meters
        self._admissions = admissions
        self._readers = readers
        self._entropy = entropy

    async def record(self, event: UsageEvent) -> None:
        """Durable on return. UsageError or RequestRefused say what is wrong with it, AccountSettling to come again."""
        at = self._check(event)
        _refuse_name_of_keys(event)
        admission = self._admissions.enter()
        try:
            increment = await within(LOOK_SECONDS_MAX, self._readers, self._prepare, event, at)
            if increment is not None:
                await self._recorder.record([increment])
        finally:
            admission.leave()

    def _prepare(self, event: UsageEvent, at: int) -> Increment | None:
        """On a reader's thread: what to commit; None for an id of a lost time that is known with the same values."""
        place, lost = self._place(event.account_id), self._store.lost_spans()
        try:
            return _increment(event, at, place, lost, "")
        except UsageInLostTime:
            known = self._store.recorded(event.account_id, [event.id]).get(event.id)
            if known is None:
                raise
            if known != (event.meter, checked_quantity(event.quantity, event.meter)):
                raise record_conflict(event.id, *known) from None
            return None

    async def record_many(self, events: Sequence[UsageEvent], sender: KeySender | None = None) -> list[Recorded]:
        """What became of each, in their order, once all that can be are durable. StoreError: repeat them all.

        `sender` is the key that records; None: the operator or the seller's code.
        """
        admission = self._admissions.enter()
        try:
            made = await self._record_many(events, sender)
        finally:
            admission.leave()
        return [replace(result, id=event.id) for event, result in zip(events, made, strict=True)]

    async def _record_many(self, events: Sequence[UsageEvent], sender: KeySender | None) -> list[Recorded]:
        results: list[Recorded | None] = [None] * len(events)
        good: list[_Good] = []
        for number, event in enumerate(events):
            try:
                at = self._check(event)
                if sender is None:
                    _refuse_name_of_keys(event)
                else:
                    event = _as_the_keys_own(event, at, sender)
                good.append((number, event, at))
            except _Refusals as error:
                results[number] = _rejected(event, error)
        places, before, lost = await within(LOOK_SECONDS_MAX, self._readers, self._look, good)
        key_id = sender.key_id if sender is not None else ""
        # A mark of this request's own: of all who record an id at the same time, one is told that it was the first.
        new, again = _sorted_out(good, places, before, lost, key_id, self._entropy.token(), results)
        for start in range(0, len(new), RECORDS_PER_COMMIT_MAX):
            await self._commit(new[start : start + RECORDS_PER_COMMIT_MAX], events, results)
        for number, first in again:
            made = results[first]
            recorded = made is not None and made.status == "recorded"
            results[number] = Recorded(events[number].id, "duplicate") if recorded else made
        return [result for result in results if result is not None]

    def _look(self, good: Sequence[_Good]) -> tuple[_Places, _Values, _Lost]:
        """On a reader's thread: where each account's usage goes, which of the ids are known already, and which time a
        restore has lost."""
        places: _Places = {}
        before: _Values = {}
        for account_id in dict.fromkeys(event.account_id for _, event, _ in good):
            try:
                places[account_id] = self._place(account_id)
            except _Refusals as error:
                places[account_id] = error
            ids = [event.id for _, event, _ in good if event.account_id == account_id]
            known = self._store.recorded(account_id, ids)
            before |= {(account_id, id): values for id, values in known.items()}
        return places, before, self._store.lost_spans()

    async def _commit(
        self, new: Sequence[tuple[int, Increment]], events: Sequence[UsageEvent], results: list[Recorded | None]
    ) -> None:
        """Together; one by one when another process has used one of the ids since we looked."""
        try:
            await self._recorder.record([increment for _, increment in new])
        except RecordConflict as error:
            if len(new) == 1:
                results[new[0][0]] = _rejected(events[new[0][0]], error)
                return
            for one in new:
                await self._commit([one], events, results)
            return
        first = await within(LOOK_SECONDS_MAX, self._readers, self._first, new)
        for number, increment in new:
            status: Literal["recorded", "duplicate"] = "recorded" if _name(increment) in first else "duplicate"
            results[number] = Recorded(events[number].id, status)

    def _first(self, committed: Sequence[tuple[int, Increment]]) -> set[_Name]:
        """On a reader's thread: those that were not known before, whoever else has committed them meanwhile."""
        first: set[_Name] = set()
        for account_id in dict.fromkeys(increment.account_id for _, increment in committed):
            own = [increment for _, increment in committed if increment.account_id == account_id]
            ids = [str(increment.record_id) for increment in own]
            first |= {(account_id, id) for id in self._store.first_recorded(account_id, ids, own[0].mark)}
        return first

    def _check(self, event: UsageEvent) -> int:
        """When it was used, if what it says can be. What a database cannot keep must be refused here: there it would
        look like a lost ledger, and stop everybody."""
        if not _plain(event.id, RECORD_ID_CHARACTERS_MAX):
            raise InputInvalid(f"id: a record's id is plain text of 1 to {RECORD_ID_CHARACTERS_MAX} characters.")
        if not _plain(event.account_id, _NAME_CHARACTERS_MAX):
            raise AccountUnknown(f"There is no account {said(event.account_id)}.")
        if not isinstance(event.meter, str) or event.meter not in self._meters:
            known = ", ".join(sorted(self._meters)) or "none"
            raise MeterUnknown(f"There is no meter {said(event.meter)} (known: {known}).")
        checked_quantity(event.quantity, event.meter)
        now = self._recorder.now_at()
        if event.at is None:
            return now
        at = whole_number(event.at)
        if at is None:
            raise InputInvalid("at: a time is a whole number of Unix seconds.")
        if at > now + RECORD_AHEAD_SECONDS_MAX:
            raise InputInvalid("at: that time has not come yet.")
        if at < now - RECORD_AGE_SECONDS_MAX:
            raise InputInvalid("at: that is more than 34 days ago, and Stripe takes no usage so old.")
        return min(at, now)

    def _place(self, account_id: str) -> _Place:
        store = self._store
        if store.account(account_id) is None:
            raise AccountUnknown(f"There is no account {account_id!r}.")
        held_until = store.held_until(account_id)
        if held_until is not None and self._clock.now_at() < held_until:
            raise AccountSettling(
                f"The subscription of {account_id} is being changed. Record it again in a few seconds."
            )
        periods = store.periods(account_id)
        edges = {edge for period in periods for edge in (period.start, period.end)}
        edges |= set(boundaries_of(store.subscriptions(account_id)))
        return _Place(tuple(sorted(edges)), min(edges, default=None))


def _sorted_out(
    good: Sequence[_Good],
    places: _Places,
    before: _Values,
    lost: _Lost,
    key_id: str,
    mark: str,
    results: list[Recorded | None],
) -> tuple[list[tuple[int, Increment]], list[tuple[int, int]]]:
    """What is to be committed, and which events are like an earlier one of the same batch. The rest has its result."""
    new: list[tuple[int, Increment]] = []
    again: list[tuple[int, int]] = []
    known, first = dict(before), dict[_Name, int]()
    for number, event, at in good:
        name, place = (event.account_id, event.id), places[event.account_id]
        values = (event.meter, checked_quantity(event.quantity, event.meter))
        try:
            if known.get(name, values) != values:
                raise record_conflict(event.id, *known[name])
            if name in before:
                results[number] = Recorded(event.id, "duplicate")
            elif name in first:
                again.append((number, first[name]))
            elif isinstance(place, _Place):
                new.append((number, _increment(event, at, place, lost, key_id)._replace(mark=mark)))
                known[name], first[name] = values, number
            else:
                raise place
        except _Refusals as error:
            results[number] = _rejected(event, error)
    return new, again


def _increment(event: UsageEvent, at: int, place: _Place, lost: _Lost, key_id: str) -> Increment:
    for span in lost:
        if event.at is not None and span.contains(at):
            raise UsageInLostTime(
                f"at: what was recorded with a time from {span.start} to {span.end} is not known here since the ledger "
                "was restored from a backup, and may have been billed. The operator can lift this."
            )
    if event.at is not None and place.since_at is not None and at < place.since_at:
        raise InputInvalid("at: that is before the account's first billing period, and nobody would be billed for it.")
    start, quantity = bucket_start(at, place.edges), checked_quantity(event.quantity, event.meter)
    return Increment(event.account_id, event.meter, key_id, _OPERATION, start, quantity, 1, at, event.id)


def _refuse_name_of_keys(event: UsageEvent) -> None:
    """What the operator and the code record has names of its own: a buyer could have used up one of the keys'."""
    if event.id.startswith(KEY_RECORDS):
        raise InputInvalid(f"id: an id that begins with {KEY_RECORDS!r} belongs to what a buyer's key records.")


def _as_the_keys_own(event: UsageEvent, at: int, sender: KeySender) -> UsageEvent:
    """The event under an id that only keys have. Refused when it costs nothing or is of an earlier, cheaper period."""
    if checked_quantity(event.quantity, event.meter) == 0:
        raise QuantityInvalid(f"{event.meter}: a key records a quantity of at least 1")
    if event.at is not None and at < sender.since_at:
        raise InputInvalid("at: a key records usage of its account's current period only, and that is before it began.")
    return replace(event, id=KEY_RECORDS + event.id)


def _name(increment: Increment) -> _Name:
    return increment.account_id, str(increment.record_id)


def _plain(text: object, characters_max: int) -> bool:
    return isinstance(text, str) and text.isprintable() and len(text.strip()) > 0 and len(text) <= characters_max


def _rejected(event: UsageEvent, error: _Refusal) -> Recorded:
    return Recorded(event.id, "rejected", error.code, error.detail)
