"""The User-Sim Index (arXiv 2603.11245) as published, with a human ceiling, intervals, null-corrected ECE and
coverage."""
