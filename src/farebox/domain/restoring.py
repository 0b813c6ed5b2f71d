"""What a restored ledger lacks: how a sum that Stripe has is shared out over what the ledger knows of it (L6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farebox.domain.reports import MeterEvent, ReportState

__all__ = ["LostSpan", "Share", "Span", "is_known_elsewhere", "lost_since", "share", "spans_of"]


@dataclass(frozen=True, slots=True)
class Span:
    """Whole minutes [start, end) of one hour whose usage belongs to one bucket."""

    start: int
    end: int
    bucket_start: int


@dataclass(frozen=True, slots=True)
class LostSpan:
    """The time from a backup to its restore, both seconds in it: which ids were recorded then is not known. Usage of
    that time is refused until a person lifts it (`lifted_at`)."""

    start: int
    end: int
    found_at: int
    lifted_at: int | None = None

    def contains(self, at: int) -> bool:
        return self.start <= at <= self.end


@dataclass(frozen=True, slots=True)
class Share:
    """Of what Stripe has beyond the ledger: meter events that it proves delivered, units that were counted here and not
    sealed, and units that are lost here. `void` events bear a name that Stripe knows from another life: what they hold
    counts as not sealed. `unexplained` is what Stripe lacks; nothing is done about it.
    """

    span: Span
    delivered: tuple[MeterEvent, ...] = ()
    void: tuple[MeterEvent, ...] = ()
    covered: int = 0
    imported: int = 0
    unexplained: int = 0

    @property
    def does_nothing(self) -> bool:
        return not self.delivered and not self.void and not self.covered and not self.imported


def spans_of(hour: int, boundaries: Sequence[int]) -> list[Span]:
    """The hour, split where billing periods begin; a minute that two share goes to the later one."""
    inside = [b for b in sorted(set(boundaries)) if hour < b < hour + 3600]
    buckets = [hour, *inside]
    starts = [bucket - bucket % 60 for bucket in buckets]
    ends = [*starts[1:], hour + 3600]
    spans = [Span(start, end, bucket) for start, end, bucket in zip(starts, ends, buckets, strict=True)]
    return [span for span in spans if span.start < span.end]


def share(
    span: Span,
    *,
    stripe: int,
    delivered: int,
    waiting: Sequence[MeterEvent],
    cells: Mapping[int, int],
    unsealed: int,
) -> Share:
    """Share out what Stripe has in the span beyond the `delivered` units that the ledger knows it has.

    First to events whose own minute shows them (`cells`: by minute, what Stripe has beyond the ledger). Then to usage
    that was not sealed: before the backup was made it was counted in both lives, and billing less is better than
    billing twice. The rest was counted in the lost life alone.
    """
    rest, left, proved = stripe - delivered, dict(cells), []
    for event in waiting:
        beyond = left.get(event.cell, 0)
        if (0 < event.value <= beyond) or (beyond <= event.value < 0):
            left[event.cell] = beyond - event.value
            rest -= event.value
            proved.append(event)
    void = tuple(event for event in waiting if is_known_elsewhere(event) and event not in proved)
    free = max(unsealed, 0) + sum(event.value for event in void)
    covered = min(max(rest, 0), free)
    return Share(span, tuple(proved), void, covered, max(rest - covered, 0), min(rest, 0))


def lost_since(newest_at: int, imported: Sequence[Span]) -> int:
    """When the lost time began: at the newest time that the ledger knows, or earlier, where Stripe has usage of hours
    before it that is not here. Then the ledger was served between the restore and now, and its newest time is of that.
    """
    return min([newest_at, *(span.start for span in imported if span.end <= newest_at)])


def is_known_elsewhere(event: MeterEvent) -> bool:
    """Whether Stripe refused the event's name as known although it had never been sent from here (L6)."""
    return event.state is ReportState.DOUBTFUL and event.first_unknown_at is None and event.kind == "usage"
