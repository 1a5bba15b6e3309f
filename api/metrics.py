"""Metrics for Prometheus: this process's answers by route, status and time."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

_REGISTRY = CollectorRegistry()
_ANSWERS = Counter(
    "altiora_api_answers_total",
    "Answers by route, method and status",
    ["route", "method", "status"],
    registry=_REGISTRY,
)
_SECONDS = Histogram(
    "altiora_api_answer_seconds",
    "From a request's first byte to its answer",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=_REGISTRY,
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def count_answer(route: str, method: str, status: int, seconds: float) -> None:
    """Count an answer; whatever somebody sends for a method is one of a few."""
    _ANSWERS.labels(route, method if method in _METHODS else "other", status).inc()
    _SECONDS.labels(route).observe(seconds)


def render() -> bytes:
    """What a scraper gets."""
    return generate_latest(_REGISTRY)
