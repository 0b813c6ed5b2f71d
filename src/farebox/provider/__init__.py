"""The adapter to the payment provider: the only room that imports its SDK."""

__all__: list[str] = []
