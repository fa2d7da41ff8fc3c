"""What hears sound for the metrics: one file each, with a literal ``SPEC`` and a ``load``."""
