"""Helpers of the course on adversarial examples: one subject per module, imported by name.

>>> from course_utils.attacks import pgd  # doctest: +SKIP
"""

__version__ = "0.1.0"
