"""Defenses on top of the core: repair of representations, detection of triggered inputs, and what follows.

Estimators follow scikit-learn: settings in the constructor, data in ``fit``, learned state with a trailing underscore.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audit import Audit
    from .backdoor_ids import BackdoorIDS
    from .cbpt import CBPT
    from .decomp_det import DecompDet
    from .decomp_rep import DecompRep
    from .decomp_rep_total import DecompRepTotal
    from .fine_tune import CleanCLIP, FineTune
    from .guard import Guard
    from .inversion import invert_trigger
    from .linear_probe import LinearProbe
    from .rvpt import RVPT
    from .scale_up import ScaleUp
    from .strip import STRIP
    from .teco import TeCo

_HOMES = {
    "DecompDet": ".decomp_det",
    "DecompRep": ".decomp_rep",
    "DecompRepTotal": ".decomp_rep_total",
    "LinearProbe": ".linear_probe",
    "RVPT": ".rvpt",
    "Audit": ".audit",
    "CBPT": ".cbpt",
    "CleanCLIP": ".fine_tune",
    "FineTune": ".fine_tune",
    "Guard": ".guard",
    "invert_trigger": ".inversion",
    "STRIP": ".strip",
    "ScaleUp": ".scale_up",
    "TeCo": ".teco",
    "BackdoorIDS": ".backdoor_ids",
}

__all__ = [
    "CBPT",
    "RVPT",
    "STRIP",
    "Audit",
    "BackdoorIDS",
    "CleanCLIP",
    "DecompDet",
    "DecompRep",
    "DecompRepTotal",
    "FineTune",
    "Guard",
    "LinearProbe",
    "ScaleUp",
    "TeCo",
    "invert_trigger",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
