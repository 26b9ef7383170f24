"""The figures of a server for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOGETHER = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Requests by route and status, their latency, how many are answered together, and how many wait.

    Args:
        num_waiting: returns the number of requests that wait.
    """

    def __init__(self, num_waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "lightrail_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "lightrail_request_seconds", "Seconds to an answer.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._together = Histogram(
            "lightrail_batch_requests", "Requests answered together.", buckets=_TOGETHER, registry=self._registry
        )
        waiting = Gauge("lightrail_waiting_requests", "Requests that wait.", registry=self._registry)
        waiting.set_function(num_waiting)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def together(self, number: int) -> None:
        """Count requests that were answered together."""
        self._together.observe(number)

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        return generate_latest(self._registry)
