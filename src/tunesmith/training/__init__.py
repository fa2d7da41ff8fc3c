"""Training: one loop that names no family and no method.

The folder is not called ``train``, because ``tunesmith.train`` is the public function.
"""

from __future__ import annotations
