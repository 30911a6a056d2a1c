"""Load balancing, health and admission over vLLM engines."""
