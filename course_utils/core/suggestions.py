"""Suggestions for unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(wrong: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """Suggest the known name that is nearest to a wrong one; or list them all (or those in `listed`).

    >>> did_you_mean("linear", ["01_linear_models", "02_fgsm"]), did_you_mean("x", ["fgsm", "pgd"])
    ("Did you mean '01_linear_models'?", 'Known: fgsm, pgd.')
    """
    known, wrong = list(known), str(wrong)
    near = [name for name in known if wrong and wrong in name] or difflib.get_close_matches(wrong, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(listed or known) or 'none'}."
