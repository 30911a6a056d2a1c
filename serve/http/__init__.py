"""HTTP layer: authentication, limits, errors, logs, metrics, shutdown."""
