"""The importance of heads over a data set: measures, the run over the data, and its result."""

from captum_attattr.heads.head_importance import HeadImportance
from captum_attattr.heads.importance import Importance

__all__ = ["HeadImportance", "Importance"]
