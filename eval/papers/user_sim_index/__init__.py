"""The User-Sim Index (arXiv 2603.11245) as published, with what it leaves out beside it."""
