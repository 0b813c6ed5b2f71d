"""A customer's way to a key. Speaks only to ports."""

__all__: list[str] = []
