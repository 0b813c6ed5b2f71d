"""The edge: ASGI in, ASGI out. Knows no SQL and no Stripe JSON."""

__all__: list[str] = []
