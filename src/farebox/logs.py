"""Where Farebox's own log lines go: through the standard library's logging, as a library should, never to stdout."""

import structlog

__all__ = ["log_through_logging"]


def log_through_logging() -> None:
    """Unless the seller has set structlog up. Without any logging set up, warnings still reach stderr."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
