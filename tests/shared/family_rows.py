"""One row of the table of families: what holds of a model's attention, measured against leaves of the graph."""

from __future__ import annotations

import copy
import inspect
import warnings
from dataclasses import asdict, dataclass, field, replace

import torch
from leaf_oracle import by_leaves, clean_softmaxes, have_gradients, with_head_zeroed
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from captum_attattr import SelfAttentionAttribution, UnsupportedModelError, attention_layers, mask_heads
from captum_attattr.attention.search import Kind  # noqa: F401
from captum_attattr.pruning import prune_heads

STEPS = 4
IN_FLOAT32 = "in float32"


@dataclass
class Case:
    """A model and what it is called with."""

    model: nn.Module
    inputs: dict[str, Tensor]
    side: str = "right"
    """Where padding is."""
    read: list[int] = field(default_factory=list)

    @property
    def takes_mask(self) -> bool:
        return "input_ids" in self.inputs and "attention_mask" in inspect.signature(self.model.forward).parameters

    def padded(self, side: str) -> Case:
        mask = torch.ones_like(self.inputs["input_ids"])
        mask[1, -2:] = 0
        return Case(self.model, {**self.inputs, "attention_mask": mask if side == "right" else mask.flip(1)}, side)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self.inputs.values())

    def forward(self, *tensors: Tensor) -> Tensor:
        """F: all outputs of an example at three places that are no padding, weighted, (batch,)."""
        with torch.random.fork_rng(devices=[]):  # some draw at random in evaluation mode, too
            torch.manual_seed(0)
            output = self.model(**dict(zip(self.inputs, tensors)))
        rows = slice(-3, None) if self.side == "left" else slice(0, 3)
        leaves = [one for one in _leaves(output) if isinstance(one, Tensor)]
        parts = [leaves[place] for place in self._read(leaves, len(tensors[0]))]
        parts = [one.flatten(1, -2)[:, rows].mean(1) if one.dim() > 2 else one for one in parts]
        values = torch.cat(parts, 1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return (values * torch.arange(values.shape[1], device=values.device).cos()).sum(1)

    def _read(self, leaves: list[Tensor], batch: int) -> list[int]:
        """The outputs that follow the batch, and do not compare its examples; found in the first pass, of two."""
        if not self.read:
            fits = [one.is_floating_point() and one.dim() > 1 and len(one) == batch for one in leaves]
            self.read += [place for place, one in enumerate(leaves) if fits[place] and one.shape[1:] != (batch,)]
        return self.read

    def to(self, dtype: torch.dtype) -> Case:
        inputs = {name: one.to(dtype) if one.is_floating_point() else one for name, one in self.inputs.items()}
        return Case(copy.deepcopy(self.model).to(dtype), inputs, self.side)


@dataclass
class Row:
    """What was measured. Errors are relative to the largest entry of the layer's attributions."""

    family: str
    calls: dict[str, int] = field(default_factory=dict)
    """Number of attention calls by kind."""
    dtype: str = ""
    layerwise: float | None = None
    joint: float | None = None
    passes: str = ""
    """"replays" or "whole passes"."""
    padded_right: float | None = None
    padded_left: float | None = None
    masked: float | None = None
    """Change of F between mask_heads and a head's matrix that is zero, relative to the mask's effect."""
    pruned: str = ""
    """"yes" where prune_heads gives what mask_heads gives, "no" where it refuses."""
    eager: float | None = None
    """Difference between SDPA and eager attention."""
    half: float | None = None
    """Error of a layer's attributions in bfloat16, in its norm, median of the layers."""
    left_refused: str = ""
    refused: str = ""
    left_out: str = ""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def _leaves(output: object) -> list[object]:
    return tree_leaves(output.to_tuple() if hasattr(output, "to_tuple") else output)


def stronger(case: Case) -> Case:
    """The usual initialisation is so small that attention hardly matters."""
    model = copy.deepcopy(case.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(10 if "embed" in name else 4)
    return Case(model, case.inputs, case.side)


def _runs(case: Case) -> bool:
    try:
        with torch.no_grad():
            once, again = case.forward(*case.tensors), case.forward(*case.tensors)
            return bool(once.isfinite().all()) and torch.equal(once, again)
    except RuntimeError:
        return False


def row(family: str, case: Case) -> Row:
    """Measure everything about a model; a refusal of the package is its result."""
    result = Row(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = case.padded("right") if case.takes_mask else case
        gentle = case
        tried = [one.to(dtype) for dtype in (torch.float64, torch.float32) for one in (stronger(case), case)]
        case = next((one for one in tried if _runs(one)), tried[-1])
        result.dtype = str(next(case.model.parameters()).dtype).removeprefix("torch.")
        try:
            _measure(result, case)
            result.half = _half(gentle)
        except ValueError as error:  # UnsupportedModelError among them
            result.refused = str(error)
    return result


def _measure(result: Row, case: Case) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kinds = {kind: attention_layers(case.model, case.inputs, kind=kind) for kind in ("encoder", "decoder", "cross")}
        layers = attention_layers(case.model, case.inputs)
    result.calls = {kind: len(found) for kind, found in kinds.items() if found}
    result.left_out = next((str(one.message) for one in caught if "Left out" in str(one.message)), "")
    matched = _against_leaves(result, case, layers)
    result.masked = _masked(case, layers, matched)
    result.pruned = _pruned(case)
    if case.takes_mask:
        result.padded_right = max(result.layerwise, result.joint or 0.0)
        _padded_left(result, case)
    result.eager = _eager(case, layers)


def _padded_left(result: Row, case: Case) -> None:
    for dtype in dict.fromkeys((next(case.model.parameters()).dtype, torch.float32)):
        left, other = Row("left"), case.padded("left").to(dtype)
        try:
            _against_leaves(left, other, attention_layers(other.model, other.inputs))
        except ValueError as error:  # a mask of float64's lowest number is minus infinity in a float32 softmax
            result.left_refused = str(error)
        else:
            result.padded_left = max(left.layerwise, left.joint or 0.0)
            result.left_refused = IN_FLOAT32 if result.left_refused else ""
            return


def _attributions(case: Case, layers: list[nn.Module], path: str) -> list[Tensor]:
    first, *rest = case.tensors
    method = SelfAttentionAttribution(case.forward, layers, path=path)
    return method.attribute(first, None, None, tuple(rest) or None, STEPS)


def _against_leaves(result: Row, case: Case, layers: list[nn.Module]) -> list[int]:
    """Compare with the oracle, and return the number of each layer's softmax."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = _attributions(case, layers, "layerwise")
        together = _attributions(case, layers, "joint")
    result.passes = "whole passes" if any("whole passes" in str(one.message) for one in caught) else "replays"
    forward = lambda: case.forward(*case.tensors)
    clean = clean_softmaxes(forward)
    matched: list[int] = []
    errors: list[float] = []
    for one in ours:
        after = range(matched[-1] + 1 if matched else 0, len(clean))
        candidates = [number for number in after if _fits(clean[number], one)]
        tried = []
        for number in candidates:
            tried.append((_error(one, by_leaves(forward, clean, [number], STEPS)[0]), number))
            if tried[-1][0] < 1e-3:
                break
        if not tried:
            raise AssertionError(f"no softmax of the size of a layer's attention, {tuple(one.shape)}")
        error, number = min(tried)
        errors.append(error)
        matched.append(number)
    result.layerwise = max(errors)
    if have_gradients(forward):
        direct = by_leaves(forward, clean, matched, STEPS)
        result.joint = max(_error(one, other) for one, other in zip(together, direct))
    return matched


def _fits(matrix: Tensor, attributions: Tensor) -> bool:
    with_sink = matrix.shape[-1] == attributions.shape[-1] + 1
    return matrix[..., : -1 if with_sink else None].numel() == attributions.numel()


def _error(ours: Tensor, direct: Tensor) -> float:
    if direct.shape[-1] == ours.shape[-1] + 1:  # a column of the softmax is a sink, which belongs to no key
        direct = direct[..., :-1]
    size = float(direct.abs().max())
    difference = float((ours - direct.reshape(ours.shape)).abs().max())
    return difference / size if size else difference


def _masked(case: Case, layers: list[nn.Module], matched: list[int]) -> float | None:
    forward = lambda: case.forward(*case.tensors)
    matrix = clean_softmaxes(forward)[matched[0]]
    if layers.count(layers[0]) > 1:
        return None
    with torch.no_grad():
        clean = forward()
        with mask_heads(case.model, {attention_layers(case.model).index(layers[0]): [1]}):
            ours = forward()
        if not torch.equal(forward(), clean):
            raise AssertionError("the mask was not removed")
    # (..., head, query, key), (batch, head, 1 window, query, key), or heads folded into the batch
    shape = matrix.shape if matrix.dim() > 3 else (2, -1, *matrix.shape[1:])
    shape = (*shape[:-3], *shape[-2:]) if matrix.dim() > 4 and shape[-3] == 1 else shape
    zeroed = with_head_zeroed(forward, matched[0], shape, 1)
    effect = float((ours - clean).abs().max())
    return float((ours - zeroed).abs().max()) / effect if effect else None


def _pruned(case: Case) -> str:
    for heads in ([1], [0, 1]):  # grouped heads go together
        try:
            pruned = prune_heads(case.model, {0: heads})
        except (UnsupportedModelError, TypeError):  # or not of transformers
            return "no"
        except ValueError:
            continue
        with torch.no_grad(), mask_heads(case.model, {0: heads}):
            masked = case.forward(*case.tensors)
        with torch.no_grad():
            ours = replace(case, model=pruned).forward(*case.tensors)
        if not torch.allclose(ours, masked, rtol=1e-4, atol=1e-6):
            raise AssertionError(f"pruned differs from masked: {ours}, {masked}")
        return "yes"
    return "no"


def _eager(case: Case, layers: list[nn.Module]) -> float | None:
    model = case.model
    if not getattr(model, "_supports_sdpa", False) or model.config._attn_implementation != "sdpa":
        return None
    fused = _attributions(case, layers, "joint")
    model.set_attn_implementation("eager")
    try:
        return max(_error(one, other) for one, other in zip(fused, _attributions(case, layers, "joint")))
    finally:
        model.set_attn_implementation("sdpa")


def _half(case: Case) -> float | None:
    exact = case.to(torch.float32)
    half = case.to(torch.bfloat16)
    try:
        with torch.no_grad():
            half.forward(*half.tensors)
    except RuntimeError:
        return None
    pairs = zip(*(_attributions(one, attention_layers(one.model, one.inputs), "layerwise") for one in (half, exact)))
    errors = sorted(float((one.float() - other).norm() / other.norm()) for one, other in pairs)
    return errors[len(errors) // 2]
