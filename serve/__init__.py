"""The User LM as an HTTP endpoint: a FastAPI front that renders tokens, and vLLM in a process of its own."""

import usersim  # noqa: F401 - installs the import hook for renamed modules
