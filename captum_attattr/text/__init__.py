"""Explanations of texts: a model with its tokenizer, the request, and the explanation."""

from captum_attattr.text.explaining import explain
from captum_attattr.text.explanation import Explanation

__all__ = ["Explanation", "explain"]
