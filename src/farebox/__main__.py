"""`python -m farebox`."""

from farebox.cli import main

__all__: list[str] = []

main()
