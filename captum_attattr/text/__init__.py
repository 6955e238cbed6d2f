"""From text to answer: a model with its tokenizer, what is asked of it, and the explanation."""

from captum_attattr.text.explaining import explain
from captum_attattr.text.explanation import Explanation

__all__ = ["Explanation", "explain"]
