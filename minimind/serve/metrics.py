"""What Prometheus reads at `/metrics`."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from minimind.engine.request import Request

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server (not of the process: a test may start several)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"minimind_{name}_total", what, labels, registry=registry)

        self.requests = counter("requests", "Requests answered", ("path", "status"))
        self.rejected = counter("requests_rejected", "Requests refused because the queue is full")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts")
        self.cached_tokens = counter("cached_tokens", "Tokens of prompts found in the cache")
        self.tokens = counter("generated_tokens", "Tokens generated")
        self.open = Gauge("minimind_answers_open", "Answers being written or waiting", registry=registry)
        name, what = "minimind_time_to_first_token_seconds", "From the request to its first token"
        self.first_token = Histogram(name, what, buckets=SECONDS, registry=registry)

    def first(self, request: Request, seconds: float) -> None:
        """Note a request's first token."""
        self.first_token.observe(seconds)
        self.prompt_tokens.inc(len(request.prompt_ids))
        self.cached_tokens.inc(request.cached_tokens)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
