"""An answer that tells itself what its call used (L18): what is known is durable before its first byte, else a minimum
is, and the rest settles when it ends, however it ends.

Never holds a body: the start of an answer that states its length waits for the first piece of it, and no longer.
"""

from collections.abc import Mapping
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from farebox.domain.measures import Fault, Measure, Source, Terms, judged, of_header
from farebox.errors import StoreError
from farebox.metering.parking import Parking
from farebox.metering.presence import Admission
from farebox.metering.recorder import Recorder
from farebox.metering.tails import Settling, Tails
from farebox.metering.writer import InDoubt
from farebox.ports import Clock
from farebox.web.calls import Call
from farebox.web.problems import refuse
from farebox.web.reading import BodyReader, reader_of

__all__ = ["UNSETTLED_BYTES_MAX", "UNSETTLED_SECONDS_MAX", "MeasuredAnswer", "Metering"]

UNSETTLED_BYTES_MAX: Final = 1_048_576
UNSETTLED_SECONDS_MAX: Final = 60
_SENDS_FILES: Final = ("http.response.pathsend", "http.response.zerocopysend")


class Metering:
    """What measured answers need of a running Farebox."""

    __slots__ = ("clock", "parking", "recorder", "tails")

    def __init__(self, recorder: Recorder, tails: Tails, parking: Parking, clock: Clock) -> None:
        self.recorder = recorder
        self.tails = tails
        self.parking = parking
        self.clock = clock


class MeasuredAnswer:
    """The seller's answer on its way out. `end` must follow, whatever became of it."""

    def __init__(
        self,
        metering: Metering,
        call: Call,
        terms: Terms,
        admission: Admission,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._metering = metering
        self._call = call
        self._measures = terms.measures
        self._billed_statuses = terms.billed
        self._admission = admission
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began_ms = metering.clock.monotonic_ms()
        self._left_ms: int | None = None
        self._billed = False
        self._held: Message | None = None
        self._open: list[Measure] = []  # those whose quantity only the end tells
        self._counted: dict[str, int] = {}
        self._faults: list[tuple[Measure, Fault, object, int]] = []  # to be said once it is known what was counted
        self._reader: BodyReader = reader_of({}, ())
        self._bytes = 0
        self.refused = False
        for name in _SENDS_FILES:  # what a server takes from a file itself is seen by nobody
            scope.get("extensions", {}).pop(name, None)

    async def receive(self) -> Message:
        """What the client sends; when it has left, that is when its answer ended."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and self._left_ms is None:
            self._left_ms = self._metering.clock.monotonic_ms()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.refused:
            # As a server says that the client has left: a stream that nobody will read must end, not run on.
            raise OSError("the answer was refused: its usage could not be recorded")
        if not self._call.begun and kind in ("http.response.start", "websocket.accept"):
            self._call.begin()
            await self._start(message)
        elif kind == "http.response.body" and self._billed:
            await self._piece(message)
        else:
            await self._send(message)

    def end(self) -> None:
        """The application is done with it. What has not been settled is settled as far as the answer went."""
        if self._open and self._held is None and not self.refused:
            self._settle_rest(ended=False)
        # An answer that nothing of has left is not counted; of one that was broken off while it was, nobody knows.
        self._say_faults(counted=None if self._held is None else False)

    async def _start(self, message: Message) -> None:
        fields: list[tuple[bytes, bytes]] = [(bytes(n).lower(), bytes(v)) for n, v in message.get("headers", ())]
        self._billed = message.get("status", 200) in self._billed_statuses
        stripped = {m.where[0].encode("latin-1") for m in self._measures if m.strips}
        if stripped:
            message = {**message, "headers": [(n, v) for n, v in message["headers"] if n.lower() not in stripped]}
        if not self._billed:
            self._admission.leave()
            await self._send(message)
            return
        for measure in self._measures:
            if measure.source is Source.HEADER:
                named = [value for name, value in fields if name == measure.where[0].encode("latin-1")]
                self._add(measure, self._judged(measure, of_header(named)))
            elif message["type"] == "websocket.accept":
                self._add(measure, self._judged(measure, Fault.UNREADABLE))
            else:
                self._open.append(measure)
        headers = dict(fields)
        paths = {measure.where for measure in self._open if measure.source is Source.JSON}
        self._reader = reader_of(headers, paths)
        if self._open and b"content-length" in headers:
            self._held = message
        elif await self._begin():
            await self._send(message)

    async def _begin(self) -> bool:
        """Have all that is known durable, and the minimum of what is not. False when the answer had to be refused."""
        for measure in self._open:
            self._add(measure, measure.minimum)
            self._counted[measure.meter] = measure.minimum
        recorder, call = self._metering.recorder, self._call
        if call.charges:
            at = self._now_at()
            try:
                await recorder.count(call.usage(at), at)
            except StoreError as error:
                self.refused = True
                self._say_faults(counted=None if isinstance(error, InDoubt) else False)
                await refuse(error, self._scope, self._receive, self._send, pay_url=None)
                return False
        self._say_faults(counted=True)
        if not self._open:
            self._admission.leave()
        return True

    async def _piece(self, message: Message) -> None:
        body, last = message.get("body", b""), not message.get("more_body", False)
        self._reader.feed(body)
        start, self._held = self._held, None
        if start is not None:
            if last:
                # The whole answer is here before any of it has left, so all that it used is counted before.
                self._went(len(body))
                for measure in self._open:
                    self._add(measure, self._quantity(measure, ended=True))
                self._open = []
            if not await self._begin():
                return
            await self._send(start)
        if self._open and last:
            self._went(len(body))
            await self._settle_rest(ended=True).tried.wait()
        elif self._open:
            await self._count_ahead(len(body))
        await self._send(message)
        if not last:
            self._went(len(body))

    async def _count_ahead(self, size: int) -> None:
        """Before a piece leaves: not more than a stated part of a long answer is unsettled at any time."""
        for measure in self._open:
            bound = _UNSETTLED_MAX.get(measure.source)
            if bound is not None:
                quantity = min(self._measured(measure.source, size), measure.maximum)
                if quantity - self._counted[measure.meter] >= bound:
                    await self._settle({measure.meter: quantity}).done.wait()

    def _settle_rest(self, *, ended: bool) -> Settling:
        rest, self._open = {m.meter: self._quantity(m, ended=ended) for m in self._open}, []
        self._say_faults(counted=True)  # the tail is tried until it is certain; if it is lost, that is said as well
        return self._settle(rest, self._admission.hand_over())

    def _settle(self, quantities: Mapping[str, int], admission: Admission | None = None) -> Settling:
        """Count what the quantities have more than was counted, outside the client's task."""
        rest = {meter: n - self._counted[meter] for meter, n in quantities.items() if n > self._counted[meter]}
        self._counted.update({meter: quantities[meter] for meter in rest})
        at = self._now_at()
        return self._metering.tails.settle(self._call.rows(rest, at), at, admission)

    def _quantity(self, measure: Measure, *, ended: bool) -> int:
        """What the measure comes to now that the answer is over; `ended`: by itself, and not because somebody left."""
        if measure.source.is_measured:
            return max(min(self._measured(measure.source), measure.maximum), measure.minimum)
        found, fault = self._reader.found(measure.where, ended=ended)
        if found is None and fault is None and self._scope["method"] == "HEAD":
            return measure.minimum
        if found is None:
            return self._judged(measure, fault)
        quantity = self._judged(measure, found)
        if fault is not None:  # it may not be the last word, but it is the last that was said
            self._faults.append((measure, fault, found, quantity))
        return quantity

    def _measured(self, source: Source, more_bytes: int = 0) -> int:
        if source is Source.BYTES:
            return self._bytes + more_bytes
        ms = (self._metering.clock.monotonic_ms() if self._left_ms is None else self._left_ms) - self._began_ms
        return ms if source is Source.MILLISECONDS else -(-ms // 1000)

    def _went(self, size: int) -> None:
        if self._left_ms is None and self._scope.get("method") != "HEAD":
            self._bytes += size

    def _judged(self, measure: Measure, found: object) -> int:
        quantity = judged(found, measure.maximum)
        if isinstance(quantity, Fault):
            self._faults.append((measure, quantity, found, measure.minimum))
            return measure.minimum
        return max(quantity, measure.minimum)

    def _say_faults(self, *, counted: bool | None) -> None:
        """Whether what stands beside the faults was counted; None: nobody knows."""
        call, faults, self._faults = self._call, self._faults, []
        for measure, fault, found, quantity in faults:
            units = quantity if counted else None if counted is None else 0
            self._metering.parking.park(
                call.grant.account.id, call.operation, measure.meter, fault, found, measure.text, counted=units
            )

    def _add(self, measure: Measure, quantity: int) -> None:
        charges = self._call.charges
        charges[measure.meter] = charges.get(measure.meter, 0) + quantity

    def _now_at(self) -> int:
        # A subscription may begin by Stripe's clock a moment before it does by ours: its calls are its own.
        return max(self._metering.recorder.now_at(), self._call.grant.started_at)


_UNSETTLED_MAX: Final = {
    Source.BYTES: UNSETTLED_BYTES_MAX,
    Source.SECONDS: UNSETTLED_SECONDS_MAX,
    Source.MILLISECONDS: UNSETTLED_SECONDS_MAX * 1000,
}
