"""The `course` command.

- `commands`: its subcommands; `environment`: what this machine lacks, which `doctor` says
"""

from .commands import main
from .environment import doctor

__all__ = ["doctor", "main"]
