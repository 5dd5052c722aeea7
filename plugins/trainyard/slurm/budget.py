"""A hard limit on commands per second towards one cluster: a token bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class CommandBudget:
    """At most ``burst`` commands at once and ``rate`` a second over time. Thread-safe.

    A thousand jobs each polled every five seconds are 200 commands a second, which administrators
    stop; here the number of jobs does not enter.
    """

    def __init__(
        self,
        *,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start full. *rate* in commands per second, above 0; *burst* in commands, 1 or more."""
        if rate <= 0 or burst < 1:
            raise ValueError(f"rate = {rate}, burst = {burst}: need rate > 0 and burst >= 1")
        self.rate = rate
        self.burst = burst
        self.used = 0
        """Commands let through so far."""
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._at = clock()
        self._lock = threading.Lock()

    def wait_s(self, commands: int = 1) -> float:
        """Return the seconds until *commands* (at most ``burst``) may be sent; takes nothing."""
        with self._lock:
            self._refill()
            lacking = min(commands, self.burst) - self._tokens
            # A billionth of a token: sums of floats must not cost a wait of no length.
            return 0.0 if lacking <= 1e-9 else lacking / self.rate  # noqa: PLR2004

    def try_take(self) -> bool:
        """Take one command's token if there is one, and return whether there was."""
        with self._lock:
            self._refill()
            if self._tokens < 1 - 1e-9:  # see wait_s
                return False
            self._tokens -= 1
            self.used += 1
            return True

    def acquire(self) -> None:
        """Wait for one command's token and take it."""
        while not self.try_take():
            self._sleep(self.wait_s())

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now
