"""`python -m farebox.sandbox`."""

from farebox.sandbox.command import main

__all__: list[str] = []

main()
