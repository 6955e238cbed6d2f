"""Faithfulness of attributions: remove the features that they rank first, and measure the change of the output.

An attribution ranks features: tokens, attention edges (a query, a key, a head and a layer), or heads. A *removal* runs
the model without some of the features; a *measure* removes them in the order of the attribution's scores. Any removal
can be used with any measure, and the scores may come from this package, from Captum or from elsewhere.

==================== =======================================================================================
removals             :class:`TokenRemoval`, :class:`EdgeRemoval`, :class:`HeadRemoval`
curves               :func:`deletion_curve`, :func:`deletion_gap`
at a few fractions   :func:`comprehensiveness`, :func:`sufficiency`, :func:`log_odds`
one by one           :func:`leave_one_out`, :func:`agreement`
==================== =======================================================================================

Scores are signed: "most important first" is the largest score first, so that features which lower the target's output
are removed last. For scores without signs (a norm, an attention weight) this is the order of magnitude; to order signed
scores by magnitude, give ``scores.abs()``.

    >>> from captum_attattr import explain
    >>> from captum_attattr.demo import load_demo
    >>> from captum_attattr.faithfulness import TokenRemoval, comprehensiveness
    >>> model, tokenizer = load_demo()
    >>> text = "A warm and funny film."
    >>> batch = tokenizer(text, return_tensors="pt", return_special_tokens_mask=True)
    >>> removal = TokenRemoval(
    ...     lambda ids, mask: model(ids, mask).logits.softmax(-1), batch["input_ids"],
    ...     target=1, special_tokens_mask=batch["special_tokens_mask"],
    ... )
    >>> scores = explain(text).token_scores()[None]  # (batch, token)
    >>> comprehensiveness(removal, scores, fractions=[0.2, 0.5]).shape
    torch.Size([1, 2])
"""

from captum_attattr.faithfulness.attention_removal import EdgeRemoval, HeadRemoval
from captum_attattr.faithfulness.curves import DeletionCurve, deletion_curve
from captum_attattr.faithfulness.measures import FRACTIONS, comprehensiveness, deletion_gap, log_odds, sufficiency
from captum_attattr.faithfulness.removal import Removal
from captum_attattr.faithfulness.single_effects import agreement, leave_one_out
from captum_attattr.faithfulness.token_removal import TokenRemoval

__all__ = [
    "FRACTIONS",
    "DeletionCurve",
    "EdgeRemoval",
    "HeadRemoval",
    "Removal",
    "TokenRemoval",
    "agreement",
    "comprehensiveness",
    "deletion_curve",
    "deletion_gap",
    "leave_one_out",
    "log_odds",
    "sufficiency",
]
