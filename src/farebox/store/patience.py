"""A PostgreSQL server that says nothing is waited for within a bound (I18).

The server's own timeouts end a statement that is too slow. Nothing of the server's ends a COMMIT that waits for a
synchronous standby, nor any wait for a server that is frozen itself.
"""

from collections.abc import Generator
from typing import Any, Final

__all__ = ["ANSWER_SECONDS_MAX", "patient"]

ANSWER_SECONDS_MAX: Final = 20
_LOOK_MILLISECONDS: Final = 100
_LOOKS_MAX: Final = ANSWER_SECONDS_MAX * 1000 // _LOOK_MILLISECONDS


def patient(driver: Any) -> Any:
    """The driver's class of connections, in which each wait for the server ends after ANSWER_SECONDS_MAX of silence.

    The connection is closed then: what became of the statement is not known.
    """

    class PatientConnection(driver.Connection):  # type: ignore[misc]
        """Waits as the driver does, which looks up every so often anyway. `endless`: for a migration, which may take
        as long as it does.
        """

        endless = False

        def wait(self, generator: Any, *arguments: Any, **named: Any) -> Any:
            if self.endless or arguments or named:  # the driver's own bound, as where it waits for notices
                return super().wait(generator, *arguments, **named)
            try:
                return super().wait(_counted(generator), _LOOK_MILLISECONDS / 1000)
            except _SilentError:
                self.close()
                said = f"the server has not answered for {ANSWER_SECONDS_MAX} s"
                raise driver.OperationalError(said) from None

    return PatientConnection


class _SilentError(Exception):
    """The server has said nothing for too long."""


def _counted(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The driver's own generator: it tells what to wait for, and is told what came, or 0 for each look in vain."""
    silent = 0
    try:
        wanted = next(generator)
        while True:
            came = yield wanted
            silent = 0 if came else silent + 1
            if silent > _LOOKS_MAX:
                raise _SilentError
            wanted = generator.send(came)
    except StopIteration as end:
        return end.value
