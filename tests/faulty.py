"""A port in whose every call something can be done before and after: killed, delayed, cut off. New calls are covered
the day they are written, because nothing here names one."""

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Around", "Faulty", "calls_of"]

Around = Callable[[str, Callable[[], Any]], Any]
"""Gets the call's name and the call itself; returns its answer, or raises instead, before or after the effect."""


class Faulty:
    """Stands in for a port. What is no call (an attribute, a private name) is the port's own."""

    def __init__(self, port: object, around: Around) -> None:
        self._port = port
        self._around = around

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._port, name)
        if name.startswith("_") or not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._around(name, lambda: value(*args, **kwargs))

        self.__dict__[name] = call  # the next time without a detour
        return call


def calls_of(port: type) -> list[str]:
    """The names of all calls that a port's Protocol has, in alphabetical order."""
    own = (kind for kind in port.__mro__ if kind not in (object, Protocol) and kind.__name__ != "Generic")
    return sorted({name for kind in own for name, value in vars(kind).items() if callable(value) and name[0] != "_"})
