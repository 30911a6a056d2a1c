"""Metric families, one a file, behind `eval.fidelity.metrics.metric_protocol.MetricFamily`; their arithmetic is in
plain functions beside them."""
