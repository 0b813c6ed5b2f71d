"""A local Stripe that behaves: stateful, strict, with movable time. A stand-in for development, never Stripe itself.

Imports nothing of the rest of Farebox: an independent judge must not share code with what it judges.
"""

from farebox.sandbox.clock import ManualClock, SandboxClock
from farebox.sandbox.core import Answer
from farebox.sandbox.faults import Reset
from farebox.sandbox.http import create_app, serve
from farebox.sandbox.sandbox import Sandbox

__all__ = ["Answer", "ManualClock", "Reset", "Sandbox", "SandboxClock", "create_app", "serve"]
