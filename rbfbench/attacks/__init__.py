"""The adversary: one function an attack, one table of them; this page is torch-free.

Suites are the frozen, versioned lists of attacks in `suites/*.toml`.
"""

from __future__ import annotations

from rbfbench.attacks.suites import DRAWS, SUITES, Row, load_suite, single_rows, through_noise
from rbfbench.attacks.table import ATTACKS, AVERAGING, NOISY_VIEWS, OBJECTIVES, VIEWS, AttackInfo, Parameter

__all__ = [
    "ATTACKS",
    "AVERAGING",
    "DRAWS",
    "NOISY_VIEWS",
    "OBJECTIVES",
    "SUITES",
    "VIEWS",
    "AttackInfo",
    "Parameter",
    "Row",
    "load_suite",
    "single_rows",
    "through_noise",
]
