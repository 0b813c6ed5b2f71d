"""The root of every error that Farebox raises."""

from typing import ClassVar

__all__ = [
    "FareboxError",
]


class FareboxError(Exception):
    """Root of the tree.

    `code` is stable, `status` is HTTP, `title` is the same for every instance, `detail` is public.
    """

    code: ClassVar[str] = "farebox_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str = "", *, internal: str = "", pay_at: str = "") -> None:
        """`pay_at` is where paying ends the refusal: an address, or a path below the prefix; "": the plans page."""
        self.detail = detail or self.title
        self.internal = internal
        self.pay_at = pay_at
        super().__init__(f"{self.detail} ({internal})" if internal else self.detail)
