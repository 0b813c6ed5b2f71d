"""Billing periods: months and years from an anchor, to the second, month ends and leap years included."""

import calendar
from datetime import UTC, datetime, timedelta

__all__ = ["moment", "months_after", "period_around", "short_date", "year_and_month"]


def period_around(anchor: int, interval: str, count: int, at: int) -> tuple[int, int]:
    """The half-open period [start, end) that holds `at`, of the periods that begin at the anchor. `at` ≥ `anchor`."""
    if interval in ("day", "week"):
        length = count * (86_400 if interval == "day" else 604_800)
        start = at - (at - anchor) % length
        return start, start + length
    months = count * (12 if interval == "year" else 1)
    first, now = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(at, UTC)
    step = max(((now.year - first.year) * 12 + now.month - first.month) // months - 1, 0)
    while _moved(first, months * (step + 1)) <= now:
        step += 1
    return int(_moved(first, months * step).timestamp()), int(_moved(first, months * (step + 1)).timestamp())


def year_and_month(at: int) -> tuple[int, int]:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.year, moment.month


def moment(at: int) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %Y %H:%M:%S UTC")


def _moved(first: datetime, months: int) -> datetime:
    """The anchor so many months later; on the month's last day when it has no such day."""
    index = first.year * 12 + first.month - 1 + months
    year, month = divmod(index, 12)
    day = min(first.day, calendar.monthrange(year, month + 1)[1])
    return first.replace(year=year, month=month + 1, day=1) + timedelta(days=day - 1)


def months_after(at: int, months: int) -> int:
    """The same time of day so many months later; on the month's last day when it has no such day."""
    return int(_moved(datetime.fromtimestamp(at, UTC), months).timestamp())


def short_date(at: int) -> str:
    """A day for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %Y")
