"""Which rows of the kept state are new: what was looked at or added since the last time, account by account."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final

from farebox.sandbox.codec import Codec
from farebox.sandbox.meters import Usage
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.shelf import Shelf
from farebox.sandbox.snapshots import Snapshot
from farebox.sandbox.state import State, StripeObject

__all__ = ["USAGE_CHUNK", "Book", "Row", "Rows"]

USAGE_CHUNK: Final = 1_000  # meter events of one customer and meter that share a row
Row = tuple[str, str, str, Any]  # account, part, name, content as JSON has it
Rows = dict[tuple[str, str, str], str | None]  # None: the row is gone
_NESTED: Final = ("objects", "identifiers")
_DERIVED: Final = ("account_id", "due", "by_customer")
_OWN_WAY: Final = (*_NESTED, *_DERIVED, "usage", "remembered", "requests", "deliveries", "pending", "held")
_ENTRIES: Final = "entries:"  # of a field that is a dict
_SETTINGS: Final = (int, bool, str)


class Book:
    """What has been kept of a sandbox, so that only changes are kept again. Used under the sandbox's lock."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._pages: dict[str, _Page] = {}
        self._settings: dict[str, Any] = {}

    def changes(self) -> Rows:
        rows: Rows = {}
        for id, state in self._sandbox.accounts.items():
            if id not in self._pages:
                self._pages[id] = _Page(self._sandbox, state)
            for (part, name), text in self._pages[id].changes().items():
                rows[id, part, name] = text
        settings = self._asked_settings()
        if rows or settings != self._settings:
            self._settings = settings
            codec = Codec(lambda _: None, lambda _: {})
            clock = self._sandbox.clock
            times = {"offset_seconds": clock.offset_seconds, "now_at": clock.now_at()}
            rows["", "sandbox", "settings"] = codec.text({**settings, **times})
        return rows

    def _asked_settings(self) -> dict[str, Any]:
        """What the control API has set; and the clock's offset, which moves with it."""
        box = self._sandbox
        plain = {name: value for name, value in vars(box).items() if type(value) in _SETTINGS and name[0] != "_"}
        plain.pop("base_url")
        faults = {"faults": box.faults.listed(), "delivery_faults": box.delivery_faults.listed()}
        own = {"pace": box.deliverer.pace, "limits": box.limits.asked(), "seed": box.ids.seeded()}
        return {"plain": plain, **own, **faults, "offset": box.clock.offset_seconds}

    def restore(self, rows: Iterable[Row]) -> None:
        by_account: dict[str, list[Row]] = {}
        for row in rows:
            by_account.setdefault(row[0], []).append(row)
        for _, _, _, content in by_account.pop("", []):
            self._restore_settings(content)
        for id, own in by_account.items():
            state = State(id)
            page = _Page(self._sandbox, state)
            page.restore(own)
            self._pages[id] = page
            self._sandbox.accounts[id] = state
        self._sandbox.reschedule()

    def _restore_settings(self, content: dict[str, Any]) -> None:
        box = self._sandbox
        for name, value in content["plain"].items():
            if name in vars(box):
                setattr(box, name, value)
        box.deliverer.pace = content["pace"]
        box.limits.set(content["limits"])
        box.ids.restore(**content["seed"])
        for faults, asked in ((box.faults, content["faults"]), (box.delivery_faults, content["delivery_faults"])):
            for one in asked:
                faults.add(one)
        box.clock.offset_seconds = content["offset_seconds"]
        box.clock.move_to(content["now_at"])  # the machine's clock may have been put back meanwhile


class _Page:
    """What has been kept of one account."""

    def __init__(self, sandbox: Sandbox, state: State) -> None:
        self._watch = sandbox.watch
        self._state = state
        self._codec = Codec(self._home, self._found, Usage, Snapshot)
        self._texts: dict[str, str] = {}  # of the fields that are kept whole
        self._chunks: dict[tuple[str, str], list[int]] = {}
        self._remembered = (0, 0)  # the first that is kept, and the first that is not yet
        self._requests: dict[str, None] = {}
        self._deliveries: dict[int, int] = {}

    def _home(self, thing: StripeObject) -> tuple[str, ...] | None:
        kind, id = thing.get("object"), thing.get("id")
        if type(kind) is str and type(id) is str and kind in self._state.objects:
            return (kind, id) if dict.get(self._state.objects[kind], id) is thing else None
        return None

    def _found(self, home: tuple[str, ...]) -> StripeObject:
        kind, id = home
        return dict.__getitem__(self._state.objects[kind], id)

    def changes(self) -> dict[tuple[str, str], str | None]:
        rows: dict[tuple[str, str], str | None] = {}
        state = self._state
        for outer in _NESTED:
            for name in getattr(state, outer):
                shelf = getattr(state, outer)[name] = self._shelf(getattr(state, outer)[name])
                for id in shelf.take_seen():
                    thing = dict.get(shelf, id, _GONE)
                    own = isinstance(thing, dict)
                    rows[f"{outer}:{name}", id] = None if thing is _GONE else self._codec.text(thing, own=own)
        for name in (f.name for f in fields(State) if f.name not in _OWN_WAY):
            rows.update(self._field(name))
        rows.update(self._usage())
        rows.update(self._log())
        rows.update(self._sent())
        return rows

    def _shelf(self, things: dict[Any, Any]) -> Shelf[Any, Any]:
        """These things on a shelf of this page's own, all of them seen if they were not on it before."""
        if isinstance(things, Shelf) and things.keeper is self:
            return things
        return Shelf(things, self._watch, self)

    def _field(self, name: str) -> dict[tuple[str, str], str | None]:
        value = getattr(self._state, name)
        if not isinstance(value, dict):
            text = self._codec.text(value)
            if self._texts.get(name) == text:
                return {}
            self._texts[name] = text
            return {("field", name): text}
        value = self._shelf(value)
        setattr(self._state, name, value)
        seen = {key: dict.get(value, key, _GONE) for key in value.take_seen()}
        part = _ENTRIES + name
        return {(part, self._codec.text(key)): None if v is _GONE else self._codec.text(v) for key, v in seen.items()}

    def _usage(self) -> dict[tuple[str, str], str | None]:
        rows: dict[tuple[str, str], str | None] = {}
        shelf = self._state.usage = self._shelf(self._state.usage)
        for key in shelf.take_seen():
            entries = dict.get(self._state.usage, key, [])
            chunks = [tuple(entries[i : i + USAGE_CHUNK]) for i in range(0, len(entries), USAGE_CHUNK)]
            known, sums = self._chunks.get(key, []), [hash(chunk) for chunk in chunks]
            for i, chunk in enumerate(chunks):
                if i >= len(known) or known[i] != sums[i]:
                    rows["usage", self._codec.text([*key, i])] = self._codec.text(list(chunk))
            for i in range(len(chunks), len(known)):
                rows["usage", self._codec.text([*key, i])] = None
            self._chunks[key] = sums
        return rows

    def _log(self) -> dict[tuple[str, str], str | None]:
        """What is remembered for a day, and the newest requests: both only grow at one end and shrink at the other."""
        state, (first, end) = self._state, self._remembered
        new_first = state.forgotten
        new_end = new_first + len(state.remembered)
        rows: dict[tuple[str, str], str | None] = {("remembered", str(n)): None for n in range(first, new_first)}
        for number in range(max(end, new_first), new_end):
            rows["remembered", str(number)] = self._codec.text(state.remembered[number - new_first])
        self._remembered = (new_first, new_end)
        asked = {entry["id"]: entry for entry in state.requests}
        rows.update({("requests", id): None for id in self._requests if id not in asked})
        rows.update({("requests", id): self._codec.text(e) for id, e in asked.items() if id not in self._requests})
        self._requests = dict.fromkeys(asked)
        return rows

    def _sent(self) -> dict[tuple[str, str], str | None]:
        """The deliveries, each once, and where it stands: in the log, among the pending, held back to be overtaken."""
        state = self._state
        every = {d["id"]: d for d in (*state.deliveries, *state.pending.values(), *state.held.values())}
        sums = {id: hash(tuple(d.values())) for id, d in every.items()}
        if sums == self._deliveries:
            return {}
        rows: dict[tuple[str, str], str | None] = {
            ("deliveries", str(id)): self._codec.text(d)
            for id, d in every.items()
            if self._deliveries.get(id) != sums[id]
        }
        rows.update({("deliveries", str(id)): None for id in self._deliveries if id not in sums})
        places = {
            "log": [d["id"] for d in state.deliveries],
            "pending": list(state.pending),
            "held": {endpoint: d["id"] for endpoint, d in state.held.items()},
        }
        rows["field", "deliveries"] = self._codec.text(places)
        self._deliveries = sums
        return rows

    def restore(self, rows: list[Row]) -> None:
        parts: dict[str, list[tuple[str, Any]]] = {}
        for _, part, name, content in rows:
            parts.setdefault(part, []).append((name, content))
        for part, own in parts.items():
            if part.startswith("objects:"):
                self._state.objects[part.partition(":")[2]] = {id: {} for id, _ in own}
        for part, own in parts.items():
            head, _, name = part.partition(":")
            if head == "objects":
                for id, content in own:
                    dict.__getitem__(self._state.objects[name], id).update(self._codec.read(content))
            elif head == "identifiers":
                self._state.identifiers[name] = {id: self._codec.read(content) for id, content in own}
            elif part.startswith(_ENTRIES):
                entries = {self._codec.value(key): self._codec.read(content) for key, content in own}
                setattr(self._state, name, entries)
        self._restore_plain(parts)
        self._settle()

    def _restore_plain(self, parts: dict[str, list[tuple[str, Any]]]) -> None:
        state, read = self._state, self._codec.read
        plain = dict(parts.get("field", []))
        deliveries = {int(name): read(content) for name, content in parts.get("deliveries", [])}
        places = plain.pop("deliveries", {"log": [], "pending": [], "held": {}})
        state.deliveries.extend(deliveries[id] for id in places["log"])
        state.pending.update({id: deliveries[id] for id in places["pending"]})
        state.held.update({endpoint: deliveries[id] for endpoint, id in places["held"].items()})
        for name, content in plain.items():
            setattr(state, name, read(content))
        state.requests.extend(read(content) for _, content in parts.get("requests", []))
        remembered = sorted((int(name), read(content)) for name, content in parts.get("remembered", []))
        state.remembered.extend(entry for _, entry in remembered)
        state.forgotten = remembered[0][0] if remembered else state.forgotten
        chunks: dict[tuple[str, str], dict[int, Any]] = {}
        for name, content in parts.get("usage", []):
            meter, customer, number = self._codec.value(name)
            chunks.setdefault((meter, customer), {})[number] = content
        for key, own in chunks.items():
            state.usage[key] = [entry for number in sorted(own) for entry in read(own[number])]

    def _settle(self) -> None:
        """What was read is what is kept: no row of it is new. What follows from the objects is worked out anew."""
        state = self._state
        for things in list(state.objects.values()):
            for thing in things.values():
                state.touch(thing)
        self.changes()


_GONE: Final = object()
