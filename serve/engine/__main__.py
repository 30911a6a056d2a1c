"""`python -m serve.engine`: one vLLM engine in the foreground."""

import sys

from serve.engine.supervisor import main
from usersim.cli import run_main

sys.exit(run_main(main))
