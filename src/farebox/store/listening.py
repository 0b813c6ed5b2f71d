"""Hears PostgreSQL's NOTIFY on a connection of its own. It only saves time: who listens looks anyway, a bit later."""

import os
import threading
from typing import Any, Final

import structlog
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from farebox.errors import StoreError

__all__ = ["Listener"]

_TURNS_DEAF: Final = 20  # after a failure so many waits pass before it tries to listen again

_log = structlog.get_logger("farebox.store")


class Listener:
    """Listens to one channel, for one thread of one process."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._raw: Any = None
        self._process = os.getpid()
        self._deaf = 0
        self._never = threading.Event()

    def wait(self, engine: Engine, timeout_ms: int) -> None:
        """Return when something was said, or after the time. What breaks is logged; the time is waited all the same."""
        if self._process != os.getpid():
            self._raw, self._process = None, os.getpid()  # the parent's connection is the parent's
        self._deaf = max(self._deaf - 1, 0)
        if not self._deaf:
            try:
                self._listen(engine, timeout_ms)
            except (SQLAlchemyError, StoreError, self._driver_error(engine)) as error:
                _log.info("listening_broken", reason=type(error).__name__)
                self.close()
                self._deaf = _TURNS_DEAF
            else:
                return
        self._never.wait(timeout_ms / 1000)

    def close(self) -> None:
        """Hang up."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _listen(self, engine: Engine, timeout_ms: int) -> None:
        if self._raw is None:
            fairy = engine.raw_connection()
            fairy.detach()
            self._raw = fairy.dbapi_connection
            self._raw.autocommit = True
            self._raw.execute(f'LISTEN "{self._channel}"')
            return  # what was said before is looked up now
        for _ in self._raw.notifies(timeout=timeout_ms / 1000, stop_after=1):
            break

    @staticmethod
    def _driver_error(engine: Engine) -> type[Exception]:
        error: type[Exception] = engine.dialect.loaded_dbapi.Error
        return error
