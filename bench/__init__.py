"""One script per claim, each against the real alternative in the same run: ``python -m bench.NAME``."""
