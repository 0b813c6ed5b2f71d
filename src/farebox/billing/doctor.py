"""`farebox doctor`: what is wrong between the configuration, the ledger and Stripe, and what to do about each."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from farebox.billing.catalog import plan_push
from farebox.domain.accounts import double_subscriptions
from farebox.domain.balance import LATE_DRAFT_SECONDS_MAX
from farebox.domain.catalog import Catalog
from farebox.domain.corrections import LateItemState
from farebox.domain.inbox import HANDLED_EVENT_TYPES, METER_ERROR_TYPES
from farebox.domain.keys import Pepper
from farebox.domain.reports import ReportState
from farebox.errors import FareboxError, ProviderError, ProviderForbidden
from farebox.ports import Clock, Provider, SpoolSummary, Store

__all__ = [
    "ACCOUNTS_PAGE_MAX",
    "DOUBLES_SHOWN_MAX",
    "LATE_SETTLED_SECONDS",
    "OPEN_EVENT_SECONDS_MAX",
    "Finding",
    "diagnose",
]

ACCOUNTS_PAGE_MAX: Final = 500  # read from the ledger at once
DOUBLES_SHOWN_MAX: Final = 5
OPEN_EVENT_SECONDS_MAX: Final = 1_800  # unreported usage older than this is worth an alarm
LATE_SETTLED_SECONDS: Final = 40 * 86_400  # late items that ended badly are told for so long
_FORBIDDEN: Final = "Use a valid key; a restricted one needs the permissions listed in docs/how-to/go-live.md."
_NOT_ASKED: Final = "Catalog, webhook endpoint and portal were not checked."


@dataclass(frozen=True, slots=True)
class Finding:
    """`status`: ok, warn, fail. `advice` is empty when nothing is to be done."""

    check: str
    status: str
    detail: str
    advice: str = ""


def diagnose(
    store: Store,
    provider: Provider | None,
    clock: Clock,
    catalog: Catalog,
    peppers: tuple[Pepper, ...],
    *,
    webhook_url: str,
    webhook_secrets: int,
    live: bool,
    spool: SpoolSummary | None = None,
    other_spools: Mapping[str, int] | None = None,
) -> Iterator[Finding]:
    """Check one thing after another; a check that cannot run is a finding too. Without a provider, what needs none."""
    yield from _ledger(store)
    yield _webhook_secret(webhook_secrets)
    if provider is not None:
        yield from _stripe(store, provider, catalog, webhook_url, live=live)
    yield from _guarded("key peppers", lambda: _peppers(store, clock, peppers))
    yield from _guarded("reporting", lambda: _reporting(store, clock))
    yield from _guarded("reports", lambda: _reports(store, clock))
    yield from _guarded("late items", lambda: _late_items(store, clock))
    yield from _guarded("inbox", lambda: _inbox(store))
    yield from _guarded("subscriptions", lambda: _subscriptions(store, catalog))
    yield from _guarded("lost time", lambda: _lost_time(store))
    if spool is not None:
        yield _spool(spool, clock)
    if other_spools:
        yield from _guarded("spools of others", lambda: _other_spools(store, other_spools))


def _stripe(store: Store, provider: Provider, catalog: Catalog, webhook_url: str, *, live: bool) -> Iterator[Finding]:
    """What only Stripe knows. When it does not answer once, it is not asked again."""
    try:
        yield from _key(store, provider, live=live)
    except ProviderForbidden as error:
        yield Finding("stripe key", "fail", f"Stripe refuses the key: {error.internal}", _FORBIDDEN)
    except ProviderError as error:
        advice = f"Check STRIPE_API_BASE, the network and Stripe's status page. {_NOT_ASKED}"
        yield Finding("stripe key", "fail", f"{error.title}: {error.internal}", advice)
    else:
        yield from _guarded("catalog", lambda: _catalog(catalog, provider))
        yield from _guarded("webhook endpoint", lambda: _webhook(provider, webhook_url))
        yield from _guarded("event destination", lambda: _destination(provider, webhook_url))
        yield from _guarded("portal", lambda: _portal(provider))


def _guarded(check: str, run: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from list(run())
    except ProviderForbidden as error:
        yield Finding(check, "fail", f"Stripe refuses the key: {error.internal}", _FORBIDDEN)
    except ProviderError as error:
        yield Finding(check, "fail", f"{error.title}: {error.internal}", "Check the network and Stripe's status page.")
    except FareboxError as error:
        yield Finding(check, "fail", error.detail, "Change it as said, and run `farebox doctor` again.")


def _ledger(store: Store) -> Iterator[Finding]:
    ledger = store.ledger()
    bound = f"bound to {ledger.provider_account}" if ledger.provider_account else "not bound to a Stripe account yet"
    durability = store.durability()
    yield Finding("database", "ok", f"{durability.database}: ledger {ledger.id}, {bound}")
    for weakness in durability.weaknesses:
        yield Finding("durability", "warn", weakness, "A crash may lose usage that was acknowledged.")
    if not durability.weaknesses:
        yield Finding("durability", "ok", durability.settings)


def _key(store: Store, provider: Provider, *, live: bool) -> Iterator[Finding]:
    account, ledger = provider.account(), store.ledger()
    mode = "live" if live else "test"
    if ledger.provider_account not in (None, account.id) or ledger.livemode not in (None, live):
        yield Finding(
            "stripe key",
            "fail",
            f"the key is of {account.id} in {mode} mode, the ledger belongs to {ledger.provider_account}",
            "Use the ledger's own key, or another FAREBOX_DATABASE_URL.",
        )
    else:
        yield Finding("stripe key", "ok", f"{account.id}, {mode} mode")


def _catalog(catalog: Catalog, provider: Provider) -> Iterator[Finding]:
    drift = [change for change in plan_push(catalog, provider) if change.kind != "unchanged"]
    for change in drift:
        detail = f"{change.kind} {change.object} {change.name}: {change.detail}"
        yield Finding("catalog", "warn", detail, "Run `farebox push`.")
    if not drift:
        yield Finding("catalog", "ok", "Stripe has what farebox.toml sells")


def _webhook_secret(count: int) -> Finding:
    if count == 0:
        return Finding("webhook secret", "fail", "STRIPE_WEBHOOK_SECRET is not set", "Run `farebox push --webhook`.")
    return Finding("webhook secret", "ok", f"{count} set")


def _webhook(provider: Provider, url: str) -> Iterator[Finding]:
    endpoint = next((e for e in provider.endpoints() if e.url == url and e.active), None)
    if endpoint is None:
        yield Finding(
            "webhook endpoint",
            "warn",
            f"Stripe has no active endpoint for {url}",
            "Run `farebox push --webhook`, or `stripe listen --forward-to` while developing.",
        )
        return
    missing = sorted(set(HANDLED_EVENT_TYPES) - set(endpoint.enabled_events))
    if missing and "*" not in endpoint.enabled_events:
        yield Finding("webhook endpoint", "warn", f"{endpoint.id} lacks {', '.join(missing)}", "Add them at Stripe.")
    else:
        yield Finding("webhook endpoint", "ok", f"{endpoint.id}, API version {endpoint.api_version}")


def _destination(provider: Provider, url: str) -> Iterator[Finding]:
    wanted = set(METER_ERROR_TYPES)
    fit = [d for d in provider.error_destinations() if d.active and d.url == url]
    found = next((d for d in fit if wanted <= set(d.enabled_events)), None)
    if found is None:
        detail = f"Stripe tells {url} nothing of usage that it refuses late"
        yield Finding("event destination", "warn", detail, "Run `farebox push --webhook`.")
    else:
        yield Finding("event destination", "ok", f"{found.id} tells of usage that Stripe refuses late")


def _portal(provider: Provider) -> Iterator[Finding]:
    portal = provider.portal()
    if portal is None:
        yield Finding("portal", "warn", "Farebox's portal configuration is missing", "Run `farebox push`.")
    elif portal.cancel_mode != "at_period_end" or portal.price_switch:
        detail = f"{portal.id} lets buyers cancel at once or switch prices, which drops unbilled usage"
        yield Finding("portal", "fail", detail, "Run `farebox push`.")
    else:
        yield Finding("portal", "ok", f"{portal.id} cancels at the period's end only")


def _peppers(store: Store, clock: Clock, peppers: tuple[Pepper, ...]) -> Iterator[Finding]:
    in_use = store.peppers_in_use(clock.now_at())
    missing = sum(count for id, count in in_use.items() if id not in {p.id for p in peppers})
    if missing:
        detail = f"{missing} live keys need a secret that is not in FAREBOX_SECRET"
        yield Finding("key peppers", "fail", detail, "Put the earlier secret back, behind the newer one.")
    else:
        yield Finding("key peppers", "ok", f"live keys: {sum(in_use.values())}")


def _reporting(store: Store, clock: Clock) -> Iterator[Finding]:
    """Whether a restored or copied ledger has halted all reporting (L6)."""
    ledger = store.ledger()
    if ledger.halted_reason is None:
        yield Finding("reporting", "ok", "nothing has halted it")
        return
    hours = max(clock.now_at() - (ledger.halted_at or 0), 0) // 3600
    yield Finding(
        "reporting",
        "fail",
        f"halted for {hours} hours: {ledger.halted_reason}",
        "Stop all processes and run `farebox reconcile --after-restore`. `farebox usage resume` only clears the halt.",
    )


def _reports(store: Store, clock: Clock) -> Iterator[Finding]:
    summary = store.report_backlog()
    parked = summary.counts[ReportState.REJECTED] + summary.counts[ReportState.DOUBTFUL]
    if parked:
        detail = f"{parked} meter events are parked"
        yield Finding(
            "reports",
            "fail",
            detail,
            "`farebox usage --events --state rejected` (or doubtful) lists them; `farebox usage retry` tries again.",
        )
    age = clock.now_at() - summary.oldest_open_at if summary.oldest_open_at is not None else 0
    if age > OPEN_EVENT_SECONDS_MAX:
        detail = f"the oldest unreported meter event is {age // 60} minutes old"
        yield Finding("reports", "warn", detail, "Is a `farebox serve` or your app running, and Stripe reachable?")
    elif not parked:
        waiting = summary.counts[ReportState.PENDING] + summary.counts[ReportState.SENDING]
        yield Finding("reports", "ok", f"{waiting} meter events on their way, none parked")


_LATE_ADVICE: Final = {
    LateItemState.NEW: "Is a `farebox serve` or your app running, and Stripe reachable? The log says more.",
    LateItemState.DRAFT: "Finalize the draft invoice at Stripe, or find out why it is kept.",
    LateItemState.REFUSED: "The log has Stripe's words. Mend the cause, then run `farebox usage retry --late`.",
    LateItemState.OPEN: "Collect the invoice at Stripe, or mark it uncollectible.",
    LateItemState.UNCOLLECTIBLE: "`farebox reconcile` names the customer and the period.",
    LateItemState.VOID: "`farebox reconcile` names the customer and the period. Bill it anew at Stripe, or leave it.",
    LateItemState.DELETED: "`farebox usage retry --late` makes it anew at Stripe; or leave it.",
}
_LATE_WORDS: Final = {
    LateItemState.NEW: "not at Stripe",
    LateItemState.DRAFT: "on a draft invoice",
    LateItemState.REFUSED: "refused by Stripe",
    LateItemState.OPEN: "on a final invoice that is not paid",
    LateItemState.UNCOLLECTIBLE: "on an invoice marked uncollectible",
    LateItemState.VOID: "on an invoice that was voided",
    LateItemState.DELETED: "deleted at Stripe",
}


def _late_items(store: Store, clock: Clock) -> Iterator[Finding]:
    """Late items that no paid invoice has and that a person should know of. Nothing while all are on their way."""
    now = clock.now_at()
    on_the_way = (LateItemState.NEW, LateItemState.DRAFT)
    for group in store.late_item_summary(settled_since=now - LATE_SETTLED_SECONDS):
        age = max(now - group.since_at, 0)
        if group.state not in _LATE_WORDS or (group.state in on_the_way and age <= LATE_DRAFT_SECONDS_MAX):
            continue
        status = "fail" if group.state is LateItemState.REFUSED else "warn"
        detail = f"{group.count} late invoice items are {_LATE_WORDS[group.state]}, the oldest for {age // 86_400} days"
        yield Finding("late items", status, detail, _LATE_ADVICE[group.state])


def _inbox(store: Store) -> Iterator[Finding]:
    yield Finding("inbox", "ok", f"{store.inbox_waiting()} webhook events waiting")


def _subscriptions(store: Store, catalog: Catalog) -> Iterator[Finding]:
    """Who is billed twice for one call, and who for what the file does not sell."""
    twice: list[str] = []
    unsold: Counter[str] = Counter()
    count, after = 0, ""
    while page := store.billing_subscriptions(after=after, limit=ACCOUNTS_PAGE_MAX):
        for account_id, subscriptions in page.items():
            count += len(subscriptions)
            unsold.update({item.meter for s in subscriptions for item in s.items} - catalog.meters.keys())
            if double_subscriptions(subscriptions):
                twice.append(account_id)
            after = account_id
    if twice:
        shown = ", ".join(twice[:DOUBLES_SHOWN_MAX]) + (", …" if len(twice) > DOUBLES_SHOWN_MAX else "")
        detail = f"{len(twice)} accounts have subscriptions that bill one meter at once: {shown}"
        yield Finding("subscriptions", "fail", detail, "Each call is billed twice: end one of them at Stripe.")
    for meter, accounts in sorted(unsold.items()):
        detail = f"subscribers have prices for meter {meter}, which is not in the file (accounts: {accounts})"
        advice = f"Keep [meters.{meter}] under its name until nobody has such a price: usage of another name has none."
        yield Finding("subscriptions", "warn", detail, advice)
    if not twice and not unsold:
        yield Finding("subscriptions", "ok", f"{count} that are billed, each meter by one of them")


def _other_spools(store: Store, files: Mapping[str, int]) -> Iterator[Finding]:
    """Outage spools in the folder that bear another ledger's id: nobody brings them in by itself."""
    former = [ledger_id for ledger_id in store.former_ledgers() if ledger_id in files]
    if former:
        detail = f"{sum(files[one] for one in former)} spool files are of this ledger before it was restored"
        advice = "Stop serving and run `farebox reconcile --after-restore`: usage in them is not in the ledger."
        yield Finding("spools of others", "fail", detail, advice)
    if strange := sorted(files.keys() - set(former)):
        detail = f"{sum(files[one] for one in strange)} spool files are of other ledgers: {', '.join(strange)}"
        advice = (
            "If this ledger was lost and replaced, their usage is missing here. Else give each a folder of its own."
        )
        yield Finding("spools of others", "warn", detail, advice)


def _lost_time(store: Store) -> Iterator[Finding]:
    """Only where a restore has lost some: what jobs record of it is refused until a person has looked."""
    spans = store.lost_spans()
    if spans:
        detail = f"usage recorded with a time in {len(spans)} spans that a restore lost is refused"
        advice = "`farebox usage lost` shows them; --lift takes it again, at the risk of counting it twice."
        yield Finding("lost time", "warn", detail, advice)


def _spool(spool: SpoolSummary, clock: Clock) -> Finding:
    """What calls left behind while the ledger was away."""
    if spool.damaged:
        detail = f"{spool.damaged} spool files have records that cannot be read"
        return Finding(
            "spool", "fail", detail, "Keep the .damaged files: what they hold behind the damage is not counted."
        )
    if spool.batches:
        age = max(clock.now_at() - (spool.oldest_at or 0), 0)
        detail = f"{spool.batches} batches in {spool.files} spool files, the oldest {age // 60} minutes old"
        return Finding("spool", "warn", detail, "A running Farebox with this folder brings them into the ledger.")
    return Finding("spool", "ok", "nothing waits in the outage spool")
