"""The vLLM engine process; `python -m serve.engine` runs one in the foreground."""
