"""One metric per file behind `eval.fidelity.metrics.metric_protocol.Metric`; the arithmetic is plain functions
beside it."""
