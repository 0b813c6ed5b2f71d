"""`farebox.record` from wherever a seller's code runs: durable or refused, and never lost in silence."""

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from structlog.testing import capture_logs
from tests.shop import CATALOG

from farebox import Account, ConfigError, Farebox, MeterUnknown, NotStarted, QuantityInvalid, UsageEvent
from farebox.errors import StoreUnavailable
from farebox.testing import BuyerClient, Kit
from farebox.web.recording import Recording, Recordings


class Seller:
    """An application whose jobs record usage, with a buyer."""

    def __init__(self, folder: Path) -> None:
        (folder / "farebox.toml").write_text(CATALOG.replace("GET /api", "* /**"))
        self.farebox = Farebox()
        self.app = FastAPI()
        self.farebox.protect(self.app)
        self.kit = Kit(self.app, self.farebox, folder / "farebox.toml")
        self.buyer: BuyerClient

    def record(self, quantity: int, id: str, meter: str = "calls") -> Recording[None]:
        return self.farebox.record(self.buyer.account_id, meter, quantity, id=id)

    def recorded(self, *ids: str) -> dict[str, int]:
        """What is durable in the ledger, by id."""
        known = self.kit.adapters.store.recorded(self.buyer.account_id, ids)
        return {id: quantity for id, (_, quantity) in known.items()}

    def on_the_loop(self, work: Callable[[], Any]) -> Any:
        assert self.buyer.portal is not None
        return self.buyer.portal.call(work)


@pytest.fixture
def seller(tmp_path: Path) -> Iterator[Seller]:
    made = Seller(tmp_path)
    with made.kit:
        made.buyer = made.kit.paid_client()
        yield made


def in_a_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def unheard(logs: Any) -> list[dict[str, Any]]:
    return [entry for entry in logs if entry["event"] == "usage_not_recorded"]


def test_a_plain_background_task(tmp_path: Path) -> None:
    """A plain function as FastAPI's background task records by calling, as does `record` itself as a task: durable when
    the task is over (I1)."""
    seller = Seller(tmp_path)

    def job(account_id: str, quantity: int) -> None:
        seller.farebox.record(account_id, "calls", quantity, id="job")

    @seller.app.post("/work")
    def work(tasks: BackgroundTasks, buyer: Annotated[Account, Depends(seller.farebox.account)]) -> str:
        tasks.add_task(job, buyer.id, 120)
        tasks.add_task(seller.farebox.record, buyer.id, "calls", 7, id="itself")
        return "begun"

    with seller.kit:
        seller.buyer = seller.kit.paid_client()
        assert seller.buyer.post("/work").status_code == 200
        assert seller.recorded("job", "itself") == {"job": 120, "itself": 7}
        assert seller.kit.usage(seller.buyer) == {"calls": 128}


def test_threads(seller: Seller) -> None:
    """In a thread the call returns when the usage is durable, and raises what is wrong with it (I1)."""

    def job(number: int) -> dict[str, int]:
        seller.record(number, f"job-{number}")
        return seller.recorded(f"job-{number}")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(job, range(40)))
    assert made == [{f"job-{number}": number} for number in range(40)]
    assert seller.kit.usage(seller.buyer) == {"calls": sum(range(40))}
    with pytest.raises(MeterUnknown):
        in_a_thread(lambda: seller.record(1, "wrong", "cals"))
    with pytest.raises(QuantityInvalid):
        in_a_thread(lambda: seller.record(-1, "wrong"))


def test_a_plain_handler(tmp_path: Path) -> None:
    """A plain handler records by calling, with one thread or many."""
    seller = Seller(tmp_path)

    @seller.app.get("/work")
    def work(buyer: Annotated[Account, Depends(seller.farebox.account)]) -> list[str]:
        seller.farebox.record(buyer.id, "calls", 5, id="handler")
        events = [UsageEvent(buyer.id, "calls", n, f"many-{n}") for n in (3, -4)]
        return [made.status for made in seller.farebox.record_many(events).result()]

    with seller.kit:
        seller.buyer = seller.kit.paid_client()
        assert seller.buyer.get("/work").json() == ["recorded", "rejected"]
        assert seller.recorded("handler", "many-3") == {"handler": 5, "many-3": 3}


def test_awaited_as_ever(seller: Seller) -> None:
    """On the event loop it is awaited, gathered, made a task and bounded in time like any coroutine."""

    async def jobs() -> None:
        assert await seller.record(1, "awaited") is None  # type: ignore[func-returns-value]
        await asyncio.gather(*(seller.record(2, f"gathered-{n}") for n in range(3)))
        await asyncio.create_task(seller.record(3, "task"))
        await asyncio.wait_for(seller.record(4, "bounded"), 5)
        with pytest.raises(MeterUnknown):
            await seller.record(1, "wrong", "cals")
        with pytest.raises(QuantityInvalid):
            await asyncio.create_task(seller.record(-1, "wrong"))
        (made,) = await seller.farebox.record_many([UsageEvent(seller.buyer.account_id, "calls", 5, "many")])
        assert made.status == "recorded"

    seller.on_the_loop(jobs)
    assert seller.kit.usage(seller.buyer) == {"calls": 1 + 6 + 3 + 4 + 5}


def test_another_event_loop(seller: Seller) -> None:
    """A thread with an event loop of its own awaits it there; it is counted on the application's."""

    async def job(id: str) -> None:
        await asyncio.gather(*(seller.record(1, f"{id}-{n}") for n in range(5)))
        with pytest.raises(MeterUnknown):
            await seller.record(1, "wrong", "cals")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(asyncio.run, job(f"loop-{n}")) for n in range(4)]:
            done.result()
    in_a_thread(lambda: asyncio.run(seller.record(1, "run")))
    assert seller.kit.usage(seller.buyer) == {"calls": 21}


def test_what_nobody_awaits(seller: Seller) -> None:
    """Without `await` on an event loop it is recorded all the same; what cannot be is told in the log, by its id."""

    async def forgetful() -> None:
        seller.record(120, "forgotten")
        seller.record(1, "wrong", "cals")
        seller.farebox.record_many([UsageEvent(seller.buyer.account_id, "calls", n, f"many-{n}") for n in (3, -4)])

    with capture_logs() as logs:
        seller.on_the_loop(forgetful)
        seller.on_the_loop(seller.farebox.runtime.recordings.close)
    assert seller.recorded("forgotten", "many-3") == {"forgotten": 120, "many-3": 3}
    assert {(entry["id"], entry["code"]) for entry in unheard(logs)} == {
        ("'wrong'", "meter_unknown"),
        ("many--4", "quantity_invalid"),
    }


def test_what_is_heard_is_not_logged(seller: Seller) -> None:
    """Who awaits a failure, or gets it raised, is told once."""

    async def attentive() -> None:
        late = seller.record(-1, "late")
        await asyncio.sleep(0.1)
        with pytest.raises(QuantityInvalid):
            await late

    with capture_logs() as logs:
        seller.on_the_loop(attentive)
        with pytest.raises(QuantityInvalid):
            in_a_thread(lambda: seller.record(-1, "raised"))
    assert unheard(logs) == []


def test_who_stops_waiting(seller: Seller) -> None:
    """Who is cancelled while waiting loses nothing, and a result that is not there yet is not made up."""

    async def impatient() -> None:
        waiting = asyncio.create_task(seller.record(9, "impatient"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        early = seller.record(1, "early")
        with pytest.raises(RuntimeError, match="await"):
            early.result()
        await early
        early.result()

    seller.on_the_loop(impatient)
    seller.on_the_loop(seller.farebox.runtime.recordings.close)
    assert seller.recorded("impatient", "early") == {"impatient": 9, "early": 1}


def test_a_stop_waits_for_it(tmp_path: Path) -> None:
    """A stop of the application waits for what is being recorded; after it, the call itself is refused (I1)."""
    seller = Seller(tmp_path)
    with seller.kit:
        seller.buyer = seller.kit.paid_client()

        async def forgetful() -> None:
            for n in range(20):
                seller.record(1, f"last-{n}")

        store, seen = seller.kit.adapters.store, []
        close = store.close

        def spied() -> None:
            seen.append(seller.kit.usage(seller.buyer))
            close()

        store.close = spied  # type: ignore[method-assign]
        seller.on_the_loop(forgetful)
    assert seen == [{"calls": 20}]
    with pytest.raises(NotStarted, match="POST /events"):
        seller.record(1, "after")
    with pytest.raises(NotStarted):
        seller.farebox.record_many([])


def test_a_loop_that_never_comes(seller: Seller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that the event loop itself waits for is let go with an error, not left waiting for ever (I18)."""
    monkeypatch.setattr("farebox.web.recording.RECORDING_SECONDS_MAX", 0.2)
    errors: list[StoreUnavailable] = []

    def job() -> None:
        try:
            seller.record(5, "blocked")
        except StoreUnavailable as error:
            errors.append(error)

    async def blocking() -> None:
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()

    seller.on_the_loop(blocking)
    assert [error.code for error in errors] == ["store_unavailable"]
    in_a_thread(lambda: seller.record(5, "blocked"))  # as the error says: again, with the same id
    assert seller.recorded("blocked") == {"blocked": 5}


def in_a_fork(work: Callable[[], object]) -> str:
    """The name of the error that the work raises in a forked process."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            work()
            os.write(write, b"nothing")
        except BaseException as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


def test_forked_processes(tmp_path: Path) -> None:
    """In a forked process, where nothing that is charged or recorded could reach the call or the ledger, both raise."""
    seller = Seller(tmp_path)

    @seller.app.get("/fork")
    def fork() -> list[str]:
        return [
            in_a_fork(lambda: seller.farebox.charge("calls", 5)),
            in_a_fork(lambda: seller.record(5, "forked")),
        ]

    with seller.kit:
        seller.buyer = seller.kit.paid_client()
        assert seller.buyer.get("/fork").json() == ["ChargeOutsideCall", "NotStarted"]
        assert seller.kit.usage(seller.buyer) == {"calls": 1}


def test_a_loop_that_is_gone() -> None:
    """A recording on a loop that has ended, or never began, is refused and leaves no coroutine behind."""

    async def work() -> None: ...

    recordings = Recordings()
    with pytest.raises(NotStarted):
        recordings.begin(work(), {})

    async def begin() -> None:
        recordings.open()

    asyncio.run(begin())
    with pytest.raises(NotStarted):
        recordings.begin(work(), {})


def test_a_price_in_a_handler(tmp_path: Path) -> None:
    """`price` is a dependency: called in a handler it would charge nothing, and says so."""
    seller, errors = Seller(tmp_path), []

    @seller.app.get("/work")
    def work() -> str:
        try:
            seller.farebox.price("calls", 5)
        except ConfigError as error:
            errors.append(error.detail)
        return "served"

    with seller.kit:
        seller.buyer = seller.kit.paid_client()
        assert seller.buyer.get("/work").status_code == 200
    assert ["farebox.charge" in detail for detail in errors] == [True]
