"""`farebox` and `python -m farebox`: the whole command line, or the local Stripe alone, which then starts at once."""

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point."""
    if sys.argv[1:2] == ["sandbox"]:
        from farebox.sandbox.command import main as run

        del sys.argv[1]
    else:
        from farebox.cli import main as run
    run()


if __name__ == "__main__":
    main()
