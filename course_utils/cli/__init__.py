"""The `course` command.

- `commands`: its subcommands, and `doctor`, which says what this machine lacks
"""

from .commands import doctor, main

__all__ = ["doctor", "main"]
