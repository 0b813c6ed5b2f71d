"""Measurements of Farebox: speed belongs here, never in a timed test."""

__all__: list[str] = []
