"""What is true: pure values and decisions. No I/O, no await, no clock, no randomness."""

__all__: list[str] = []
