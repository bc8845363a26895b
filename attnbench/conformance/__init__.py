"""The checks that every mechanism is put through, ours and a stranger's.

for result in check("path/to/file.py:MyAttention", p=0.2):
    print(result.name, result.outcome, result.detail)
"""

from attnbench.conformance.suite import CHECKS, Result, check

__all__ = ["CHECKS", "Result", "check"]
