"""HTTP endpoint of the User LM: a FastAPI server that renders prompts to tokens, and vLLM in its own process."""

import usersim  # noqa: F401 - installs the import hook for renamed modules
