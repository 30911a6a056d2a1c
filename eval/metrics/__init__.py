"""One metric per file behind `eval.metrics.base.Metric`; the arithmetic is plain functions beside it."""
