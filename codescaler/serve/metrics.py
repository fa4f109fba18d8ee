"""What `/metrics` shows, in the text form of Prometheus."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from codescaler.serve.models import EncodedRows

if TYPE_CHECKING:
    from codescaler.serve.service import Service


disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names: dict[str, Any] = {"registry": self.registry, "namespace": "codescaler"}
        self.rows = Counter("rows", "rows that were encoded", **names)
        self.requests = Counter("requests", "answers by route and status", ("route", "status"), **names)
        self.refused = Counter("refused", "requests without a score, by cause", ("code",), **names)
        self.truncated = Counter("truncated_rows", "rows that were cut to the longest length", **names)
        self.bos_restored = Counter("bos_restored_rows", "rows whose lost BOS was put back", **names)
        self.rebuilt = Counter("rebuilt_rows", "rows that had the template of a policy", **names)
        self.encode_seconds = Counter("encode_seconds", "time spent on text", **names)
        self.seconds = Histogram("request_seconds", "time from a request to its answer", ("route",), **names)

    def count_encoded(self, encoded: EncodedRows, seconds: float) -> None:
        self.rows.inc(len(encoded.sequences))
        self.truncated.inc(encoded.num_truncated)
        self.bos_restored.inc(encoded.num_bos_restored)
        self.rebuilt.inc(encoded.num_rebuilt)
        self.encode_seconds.inc(seconds)

    def watch(self, service: "Service") -> None:
        """Adds the figures that the engines count themselves."""
        self.registry.register(_EngineCollector(service))

    def format(self) -> bytes:
        return generate_latest(self.registry)


class _EngineCollector:
    def __init__(self, service: "Service") -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("codescaler_queue_tokens", "tokens that wait", self._service.num_waiting_tokens)
        figures = {
            "tokens": "tokens of the sequences that were scored",
            "distinct_tokens": "tokens that were computed: a shared prefix counts once",
            "forward_seconds": "time that the worker spent on forwards",
        }
        families = {
            name: CounterMetricFamily(f"codescaler_{name}", text, labels=["model"]) for name, text in figures.items()
        }
        waiting = GaugeMetricFamily("codescaler_queue_requests", "requests that wait", labels=["model"])
        for model in self._service.models.models:
            engine, label = model.engine, [model.names[0]]
            families["tokens"].add_metric(label, engine.num_tokens)
            families["distinct_tokens"].add_metric(label, engine.num_distinct_tokens)
            families["forward_seconds"].add_metric(label, engine.forward_seconds)
            waiting.add_metric(label, len(engine.scheduler))
        yield from families.values()
        yield waiting
