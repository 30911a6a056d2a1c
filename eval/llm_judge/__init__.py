"""Optional LLM judge: blinded, in both orders, and reported apart from all results that need no judge.

The machinery is tested with invented judges, because no strong judge was available here. The accuracy of a real
judge has to be measured with labels of people (`--export`, `--labels`).
"""
