"""Removal of tokens from the input: hidden from attention, deleted, or replaced by [MASK]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.faithfulness.removal import Done, Removal, Scores, expect_shape

How = Literal["mask", "delete", "replace"]


class TokenRemoval(Removal):
    """F without some of the tokens. Special tokens and padding are never removed.

    There are three ways, none of which is perfect: each leaves a text unlike those that the model was trained on.

    * "mask": the attention mask hides the token from all queries; the others keep their positions.
    * "delete": the token is cut out and the others move up, as in DeYoung et al. (ACL 2020).
    * "replace": another token, usually [MASK], takes its place.

    Args:
        forward_func: Called with the token numbers, the attention mask and the additional arguments, in this order;
            returns outputs (rows, classes) or (rows,). For :func:`log_odds` they must be probabilities.
        input_ids: (batch, token).
        attention_mask: (batch, token), 0 for padding; None without padding.
        additional_forward_args: Further arguments; tensors (batch, token, ...), such as token types, follow the tokens.
        target: The output, in any of Captum's forms.
        special_tokens_mask: (batch, token), as the tokenizer returns it: 1 for tokens that stay.
        how: "mask", "delete" or "replace".
        token_id: The number of [MASK] for "replace"; of [PAD] for "delete", which pads the shortened texts.

    Raises:
        ValueError: ``how`` is unknown, ``token_id`` is missing, or shapes do not fit.

    Example:
        >>> from captum_attattr.demo import load_demo
        >>> from captum_attattr.faithfulness import TokenRemoval, leave_one_out
        >>> model, tokenizer = load_demo()
        >>> batch = tokenizer(["A warm film.", "Dull."], padding=True, return_special_tokens_mask=True,
        ...                   return_tensors="pt")
        >>> removal = TokenRemoval(
        ...     lambda ids, mask: model(ids, mask).logits.softmax(-1), batch["input_ids"], batch["attention_mask"],
        ...     target=[1, 0], special_tokens_mask=batch["special_tokens_mask"],
        ...     how="replace", token_id=tokenizer.mask_token_id,
        ... )
        >>> leave_one_out(removal).shape  # (batch, token)
        torch.Size([2, 6])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        target: TargetType = None,
        special_tokens_mask: Tensor | None = None,
        how: How = "mask",
        token_id: int | None = None,
    ) -> None:
        if how not in ("mask", "delete", "replace"):
            raise ValueError(f"how {how!r} is unknown. Choose 'mask', 'delete' or 'replace'.")
        if how != "mask" and token_id is None:
            which = "mask_token_id" if how == "replace" else "pad_token_id"
            raise ValueError(f"how={how!r} needs a token: token_id=tokenizer.{which}.")
        if not isinstance(input_ids, Tensor) or input_ids.dim() != 2:
            raise ValueError("input_ids must be a tensor (batch, token) of token numbers.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        for name, tensor in (("attention_mask", mask), ("special_tokens_mask", special_tokens_mask)):
            if tensor is not None and tensor.shape != input_ids.shape:
                raise ValueError(
                    f"{name} is {tuple(tensor.shape)}, input_ids are {tuple(input_ids.shape)}: give the same."
                )
        self._function, self._target, self._how, self._token_id = forward_func, target, how, token_id or 0
        self._forward = Forward(forward_func, (input_ids, mask), additional_forward_args)
        self._arguments: tuple[Any, ...] = (*self._forward.inputs, *self._forward.arguments)
        self._by_row = [_begins_with(value, input_ids.shape[:1]) for value in self._arguments]
        self._by_token = [_begins_with(value, input_ids.shape) for value in self._arguments]
        self._real = mask.bool()
        special = False if special_tokens_mask is None else special_tokens_mask.bool()
        self.removable: Tensor = self._real & ~torch.as_tensor(special, device=mask.device)

    def flatten(self, scores: Scores) -> Tensor:
        """Return scores (batch, token) as they are."""
        return expect_shape(scores, self.removable.shape, "(batch, token)")

    def unflatten(self, values: Tensor) -> Tensor:
        """Return values (batch, token) as they are."""
        return values

    @with_gradients(False)
    def outputs(self, kept: Tensor, examples: Tensor, batch_size: int = 64, done: Done = id) -> Tensor:
        """Compute F of each row; see :meth:`Removal.outputs`. Equal rows are run once."""
        arguments = self._picked(self._arguments, self._by_row, examples)
        arguments = self._without(arguments, kept & self._real[examples])
        self._refuse_empty(arguments[1], examples)
        first, number, times = self._distinct(arguments)
        lengths = _lengths(arguments[1])[first]
        results: dict[int, Tensor] = {}
        for group in torch.argsort(lengths, stable=True).split(batch_size):
            given = self._picked(arguments, self._by_row, first[group])
            longest = slice(int(lengths[group].max()))
            given = [value[:, longest] if cut else value for value, cut in zip(given, self._by_token, strict=True)]
            output = Forward(self._function, (given[0], given[1]), tuple(given[2:]))()
            results.update(zip(group.tolist(), output, strict=True))
            done(int(times[group].sum()))
        output = torch.stack([results[place] for place in number.tolist()])
        return self._forward.scores(output, self._target, examples.cpu())

    @staticmethod
    def _picked(values: Sequence[Any], by_row: Sequence[bool], rows: Tensor) -> list[Any]:
        return [value[rows] if indexed else value for value, indexed in zip(values, by_row, strict=True)]

    def _without(self, arguments: list[Any], kept: Tensor) -> list[Any]:
        """Return the arguments with only the ``kept`` tokens in each row."""
        ids, mask, *rest = arguments
        if self._how == "replace":
            return [torch.where(kept | ~mask.bool(), ids, self._token_id), mask, *rest]
        if self._how == "mask":
            return [ids, mask * kept.to(mask.dtype), *rest]
        order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        left = kept[rows, order]
        ids = torch.where(left, ids[rows, order], self._token_id)
        moved = [value[rows, order] if moves else value for value, moves in zip(rest, self._by_token[2:], strict=True)]
        return [ids, left.to(mask.dtype), *moved]

    def _refuse_empty(self, mask: Tensor, examples: Tensor) -> None:
        empty = ~mask.bool().any(1)
        if bool(empty.any()):
            raise ValueError(
                f"Nothing would be left of example {int(examples[empty][0])}: it has no special token that "
                "stays. Remove less than all (fractions below 1), or give special_tokens_mask for tokens that stay."
            )

    def _distinct(self, arguments: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Find equal rows.

        Returns:
            One row of each distinct kind, the kind of each row, and the number of rows of each kind.
        """
        tensors = [value for value, by_row in zip(arguments, self._by_row, strict=True) if by_row]
        everything = torch.cat([tensor.flatten(1).double() for tensor in tensors], 1)
        _, number, times = everything.unique(dim=0, return_inverse=True, return_counts=True)
        first = torch.empty_like(times).scatter_(0, number, torch.arange(len(number), device=number.device))
        return first, number, times


def _begins_with(value: Any, shape: Sequence[int]) -> bool:
    return isinstance(value, Tensor) and tuple(value.shape[: len(shape)]) == tuple(shape)


def _lengths(mask: Tensor) -> Tensor:
    """Return the length of each row up to its last token; the rest is padding."""
    return (torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask.bool()).amax(1)
