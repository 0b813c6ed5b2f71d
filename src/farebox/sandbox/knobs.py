"""What the viewer's buttons do: move time, add and clear faults, set the lag, send an event again."""

from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox.deliveries import queue
from farebox.sandbox.frame import Frame, form_of, is_foreign, see_other

__all__ = ["knob_routes"]

_TIMES: Final = {"once": 1, "five times": 5, "always": None}


def knob_routes(frame: Frame) -> list[BaseRoute]:
    knobs = _Knobs(frame)
    return [
        Route("/move", knobs.move, methods=["POST"]),
        Route("/faults", knobs.faults, methods=["GET", "POST"]),
        Route("/lag", knobs.lag, methods=["POST"]),
        Route("/events/{id}/resend", knobs.resend, methods=["POST"]),
    ]


class _Knobs:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._sandbox = frame.sandbox

    def _refused(self, request: Request) -> Response | None:
        if is_foreign(request):
            return self._frame.message("Not from here", "Another site's page may not turn these knobs.", 403)
        return None

    async def move(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        form = await form_of(request)
        asked: dict[str, Any] = {"advance": form.get("advance") or form.get("span", "")}
        if form.get("to_at", "").isdecimal():
            asked = {"to_at": int(form["to_at"])}
        try:
            await run_in_threadpool(self._frame.movement.begin, asked)
        except ValueError as error:
            return self._frame.message("Time was not moved", str(error), 400)
        return see_other("/")

    async def faults(self, request: Request) -> Response:
        if request.method == "GET":
            return self._faults_page()
        refused = self._refused(request)
        if refused is not None:
            return refused
        form = await form_of(request)
        try:
            match form.get("action"):
                case "clear":
                    self._sandbox.faults.clear()
                    self._sandbox.delivery_faults.clear()
                case "request":
                    self._sandbox.faults.add(_request_fault(form))
                case "delivery":
                    self._sandbox.delivery_faults.add(_delivery_fault(form))
        except ValueError as error:
            return self._faults_page(str(error), form, 400)
        return see_other("/faults")

    def _faults_page(self, problem: str = "", form: dict[str, str] | None = None, status: int = 200) -> Response:
        return self._frame.page(
            "faults.html",
            status=status,
            here="faults",
            accounts=list(self._sandbox.accounts),
            faults=self._sandbox.faults.listed(),
            delivery_faults=self._sandbox.delivery_faults.listed(),
            lag=self._sandbox.aggregation_lag_seconds,
            times=list(_TIMES),
            problem=problem,
            form=form or {},
        )

    async def lag(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        text = (await form_of(request)).get("lag_seconds", "")
        if not (text.isascii() and text.isdecimal() and len(text) <= 9):
            return self._faults_page("The lag is a whole number of seconds, zero or more.", status=400)
        self._sandbox.set_aggregation(int(text), late=self._sandbox.late_validation)
        return see_other("/faults")

    async def resend(self, request: Request) -> Response:
        """Send an event once more to one of those who listen, whatever became of it before."""
        refused = self._refused(request)
        if refused is not None:
            return refused
        id = request.path_params["id"]
        found = self._frame.find("event", id) or self._frame.find("v2.core.event", id)
        chosen = (await form_of(request)).get("receiver", "")
        if found is None:
            return self._frame.message("No such event", f"There is no event {id} here (any more).", back="/events")
        state, event = found
        with self._sandbox.lock:
            receiver = state.objects["webhook_endpoint"].get(chosen)
            receiver = receiver or state.objects["v2.core.event_destination"].get(chosen)
            if receiver is None or receiver["status"] != "enabled":
                text = "That endpoint is deleted or disabled."
                return self._frame.message("Not sent", text, 400, back=f"/events/{id}")
            queue(state, event, [receiver], self._sandbox.clock.system_ms(), None)
        return see_other(f"/events/{id}")


def _number(form: dict[str, str], name: str, otherwise: int) -> int:
    text = form.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"{name.replace('_', ' ')}: a whole number, zero or more.")
    return int(text)


def _rate(form: dict[str, str]) -> int:
    percent = _number(form, "percent", 100)
    if not 1 <= percent <= 100:
        raise ValueError("percent: from 1 to 100.")
    return percent * 10_000


def _request_fault(form: dict[str, str]) -> dict[str, Any]:
    what = form.get("what", "")
    asked: dict[str, Any] = {
        "method": form.get("method") or "*",
        "path": form.get("path") or "*",
        "latency_ms": _number(form, "latency_ms", 0),
        "count": _TIMES.get(form.get("times", "once"), 1),
        "rate_millionths": _rate(form),
    }
    if what.isdecimal():
        asked["status"] = int(what)
    elif what.startswith("reset "):
        asked["reset"] = what.removeprefix("reset ")
    elif not asked["latency_ms"]:
        raise ValueError("A fault that is latency alone needs some milliseconds.")
    return asked


def _delivery_fault(form: dict[str, str]) -> dict[str, Any]:
    kind = form.get("kind", "")
    return {
        "kind": kind,
        "type": form.get("type") or "*",
        "delay_ms": _number(form, "delay_ms", 5_000) if kind == "delay" else 0,
        "count": _TIMES.get(form.get("times", "once"), 1),
        "rate_millionths": _rate(form),
    }
