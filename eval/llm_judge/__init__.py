"""An LLM as judge: optional, blinded, in both orders, and reported apart from everything that needs none.

No strong judge was at hand here: the machinery is tested with invented ones, and how far a real judge can be believed
has to be measured with labels of people (`--export`, `--labels`).
"""
