"""A call's way to the invoice. Speaks only to ports."""

__all__: list[str] = []
