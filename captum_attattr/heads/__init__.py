"""The importance of heads over a data set: measures, the run over the data, and its result.

To add a measure, subclass :class:`Measure` and give it as ``HeadImportance(measure=...)``.
"""

from captum_attattr.heads.ablation import Ablation
from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance, RankedHead
from captum_attattr.heads.measure import Measure
from captum_attattr.heads.measures import MEASURES, AttAttr, Attention, Random, Taylor

__all__ = [
    "MEASURES",
    "Ablation",
    "AttAttr",
    "Attention",
    "HeadImportance",
    "Importance",
    "Measure",
    "Random",
    "RankedHead",
    "Taylor",
]
