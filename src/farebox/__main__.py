"""`python -m farebox`."""

import sys

__all__: list[str] = []


def _main() -> None:
    if sys.argv[1:2] == ["sandbox"]:
        from farebox.sandbox.command import main as run

        del sys.argv[1]
    else:
        from farebox.cli import main as run
    run()


_main()
