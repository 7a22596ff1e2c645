"""All named templates. A new one is one entry in ``families_2023.py`` or ``families_today.py``, and nothing else."""

from __future__ import annotations

from hanlin.template import families_2023, families_today
from hanlin.template.form import OTHER_NAMES, TEMPLATES, Template, add_template, find_template

for _entry in (*families_2023.ENTRIES, *families_today.ENTRIES):
    add_template(_entry)

__all__ = ["OTHER_NAMES", "TEMPLATES", "Template", "add_template", "find_template"]
