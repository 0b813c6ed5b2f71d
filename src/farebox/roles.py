"""Which process on a ledger does what only one is to do: each role is a lease, renewed while the process lives.

A role saves work; it proves nothing. What must not happen twice is fenced where it happens, in the ledger's rows.
"""

from collections.abc import Callable
from typing import Final

import structlog

from farebox.errors import StoreError
from farebox.ports import Clock, Store

__all__ = ["REPORTING", "ROLE_LEASE_SECONDS", "ROLE_RENEWAL_MILLISECONDS", "Role", "Roles"]

REPORTING: Final = "reporter"  # sealing, sending, and what goes with it
ROLE_LEASE_SECONDS: Final = 15
ROLE_RENEWAL_MILLISECONDS: Final = 3_000

_log = structlog.get_logger("farebox.roles")


class Role:
    """One role of this process. `gained` is called when it becomes ours."""

    def __init__(self, name: str, store: Store, clock: Clock, holder: str, gained: Callable[[], None]) -> None:
        self.name = name
        self.fence: int | None = None
        self._store = store
        self._clock = clock
        self._holder = holder
        self._gained = gained
        self._until_ms = 0

    @property
    def held(self) -> bool:
        """Whether it is ours, counted from before the lease was asked for, on a clock that counts suspension."""
        return self.fence is not None and self._clock.monotonic_ms() < self._until_ms

    def renew(self) -> None:
        """Take or keep the role. When the ledger cannot be asked, it ends with its lease. StoreError."""
        asked_ms = self._clock.monotonic_ms()
        fence = self._store.take_lease(self.name, self._holder, now=self._clock.now_at(), seconds=ROLE_LEASE_SECONDS)
        before, self.fence = self.fence, fence
        self._until_ms = asked_ms + ROLE_LEASE_SECONDS * 1000
        if fence is not None and fence != before:
            _log.info("role_taken", role=self.name, fence=fence)
            self._gained()
        elif fence is None and before is not None:
            _log.warning("role_lost", role=self.name, fence=before)

    def release(self) -> None:
        """Let another process take it at once."""
        if self.fence is not None:
            self.fence = None
            self._store.release_lease(self.name, self._holder)


class Roles:
    """All roles of a process, under one name for it."""

    def __init__(self, store: Store, clock: Clock, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._roles: list[Role] = []

    def add(self, name: str, gained: Callable[[], None]) -> Role:
        role = Role(name, self._store, self._clock, self._holder, gained)
        self._roles.append(role)
        return role

    def renew(self) -> bool:
        """Take or keep each, whatever became of the others. Returns False: the next turn comes with the loop's
        interval. StoreError when one could not be renewed.
        """
        failed: StoreError | None = None
        for role in self._roles:
            try:
                role.renew()
            except StoreError as error:
                failed = error
        if failed is not None:
            raise failed
        return False

    def release(self) -> None:
        """Give all up on the way out. An unreachable ledger does not matter: leases end by themselves."""
        for role in self._roles:
            try:
                role.release()
            except StoreError as error:
                _log.info("role_not_released", role=role.name, reason=str(error))
