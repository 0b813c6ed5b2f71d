"""The composition root: the one file that names concrete adapters, and that starts and stops the loops."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from farebox.billing.inbox import InboxWorker
from farebox.config import Settings
from farebox.domain.usage import Increment, bucket_start, checked_quantity
from farebox.domain.accounts import boundaries_of
from farebox.errors import AccountUnknown, FareboxError, MeterUnknown, ProviderError, StoreUnusable
from farebox.loops import Loop
from farebox.metering.gate import FEED_POLL_MILLISECONDS, Gate
from farebox.metering.recorder import Recorder
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.ports import Clock, Entropy, Provider, Store
from farebox.store.lock import ServingLock
from farebox.system import FollowingClock, SystemClock, SystemEntropy
from farebox.web.calls import RouteTable
from farebox.web.middleware import Edge

__all__ = ["Adapters", "Runtime"]

_log = structlog.get_logger("farebox")
