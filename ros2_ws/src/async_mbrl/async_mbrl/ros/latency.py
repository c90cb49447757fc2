"""How long messages take from their publisher to where they are used."""

from __future__ import annotations

import threading

from async_mbrl.control.histogram import Histogram


class LatencyRecord:
    """Latencies since the process began; may be written by one thread and read by another."""

    def __init__(self) -> None:
        """Begin without any."""
        self._histogram = Histogram()
        self._lock = threading.Lock()

    def add(self, published_ns: int, now_ns: int) -> None:
        """Count one message, both times by the system clock, ns; 0 stands for not known."""
        if published_ns > 0:
            with self._lock:
                self._histogram.add(max(0, now_ns - published_ns) * 1e-9)

    def percentiles_ms(self) -> tuple[float, float]:
        """Give the 50th and the 99th percentile, ms; 0 without any message."""
        with self._lock:
            median, high = self._histogram.percentiles_s((0.5, 0.99))
        return median * 1e3, high * 1e3
