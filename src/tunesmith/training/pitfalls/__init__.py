"""What commonly goes wrong with a run, watched for while it trains. ``docs/pitfalls.md`` has the table.

A watcher sees numbers and says what it finds; it changes nothing itself. The loop acts, and only if
``auto_fix`` is on.
"""

from tunesmith.training.pitfalls.finding import Finding
from tunesmith.training.pitfalls.watch import Watch

__all__ = ["Finding", "Watch"]
