"""Families of metrics of one service, as Prometheus' client library makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from edge_runtime.service.ops.figures import Histogram

PREFIX = "hobbit_"


class Families:
    """Makes metric families whose series all carry `model_name`."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name

    def gauge(self, name: str, text: str, value: float) -> Metric:
        """Return one value that goes up and down."""
        family = GaugeMetricFamily(PREFIX + name, text, labels=["model_name"])
        family.add_metric([self.model_name], value)
        return family

    def gauges(self, name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> Metric:
        """Return such values by labels."""
        family = GaugeMetricFamily(PREFIX + name, text, labels=["model_name", *labels])
        for key, value in values.items():
            family.add_metric([self.model_name, *key], value)
        return family

    def counter(self, name: str, text: str, value: float) -> Metric:
        """Return one total."""
        family = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
        family.add_metric([self.model_name], value)
        return family

    def counters(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        """Return totals by a label."""
        family = CounterMetricFamily(PREFIX + name, text, labels=["model_name", label])
        for key, value in values.items():
            family.add_metric([self.model_name, key], value)
        return family

    def histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        """Return a histogram."""
        family = HistogramMetricFamily(PREFIX + name, text, labels=["model_name"])
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            total += count
            buckets.append((str(floatToGoString(bound)), total))  # type: ignore[no-untyped-call]
        # the stubs ask for exemplars that the text format may leave out
        pairs: Any = buckets
        family.add_metric([self.model_name], pairs, histogram.sum)
        return family
