"""The User LM as an HTTP endpoint: a FastAPI front that renders tokens, and vLLM in a process of its own."""
