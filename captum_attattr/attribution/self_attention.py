"""Self-attention attribution: how much each token pair, in each head of each layer, adds to the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from captum._utils.typing import TargetType
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_attattr.arguments import check_count
from captum_attattr.attention import check_layers
from captum_attattr.attribution.attention_function import AttentionFunction
from captum_attattr.attribution.integrals import Integration, convergence_of, integrals_along, rises_along
from captum_attattr.engine.baselines import AttentionBaselines, attention_baseline, input_baselines, starts_of
from captum_attattr.engine.calls import Listed
from captum_attattr.engine.forward import Forward
from captum_attattr.engine.gradients import with_gradients
from captum_attattr.engine.integration import Convergence
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.path_kinds import path_named
from captum_attattr.engine.paths import AttentionPath
from captum_attattr.engine.plans import Findings
from captum_attattr.engine.reductions import Keep, Reduce, as_asked, reductions
from captum_attattr.engine.replay import Recording

PathName = Literal["layerwise", "joint"]
Attributions = TypeVar("Attributions", Tensor, list[Tensor])
"""A tensor for one layer, a list of them for a list of layers."""


class SelfAttentionAttribution(LayerAttribution, GradientAttribution, Generic[Attributions]):  # type: ignore[misc]
    r"""Integrated gradients over the attention probabilities of a Transformer's layers.

    For one layer with attention probabilities A (batch, head, query, key) and baseline A0,

    .. math:: Attr(A) = (A - A_0) \odot \int_0^1 \frac{\partial F(A_0 + \alpha (A - A_0))}{\partial A} d\alpha

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021, eq. 5). Entry [b, h, i, j] says how much token i looking
    at token j, in head h, adds to the output of example b, in the unit of the output (a logit, a probability). The
    attributions of a layer sum to F(A) - F(A0). This difference is another one for each layer, so attributions of
    different layers do not add up, except on the joint path.

    Args:
        forward_func: The model, or any function that runs it; it is called with the inputs and the additional
            arguments in order. It returns one output per example, or a model output of transformers with ``logits``.
        layer: One attention layer or a list of them, as :func:`attention_layers` gives them, in any order.
        device_ids: Captum's; not needed here.
        multiply_by_inputs: With False the factor A - A0 is left out: mean gradients, not attributions.
        path: "layerwise" scales one layer at a time and recomputes the others, as in the paper; "joint" scales all
            given layers together, each with its attention of the clean pass, so that their attributions add up.

    Attributes:
        convergence: After :meth:`attribute`, the number of evaluations that it took and the gaps that remained.

    Raises:
        TypeError: ``layer`` is not a module or a list of modules.
        ValueError: A layer is no attention layer, or the path is unknown.

    Example:
        >>> from captum_attattr import SelfAttentionAttribution, attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> batch = tokenizer("A warm, funny film.", return_tensors="pt")
        >>> method = SelfAttentionAttribution(model, attention_layers(model))
        >>> attributions = method.attribute(batch["input_ids"], target=1)  # one tensor a layer
        >>> attributions[0].shape
        torch.Size([1, 12, 8, 8])
    """

    @overload
    def __init__(
        self: SelfAttentionAttribution[Tensor], forward_func: Callable[..., Any], layer: nn.Module,
        device_ids: list[int] | None = ..., multiply_by_inputs: bool = ..., *, path: PathName | AttentionPath = ...,
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self: SelfAttentionAttribution[list[Tensor]], forward_func: Callable[..., Any], layer: list[nn.Module],
        device_ids: list[int] | None = ..., multiply_by_inputs: bool = ..., *, path: PathName | AttentionPath = ...,
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | list[nn.Module],
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        path: PathName | AttentionPath = "layerwise",
    ) -> None:
        check_layers(layer)
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)
        self._multiply_by_inputs = multiply_by_inputs
        self._path = path_named(path)
        self._findings = Findings()
        self.convergence: Convergence | None = None

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions carry the factor A - A0."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """True: completeness gives a measure of the integration error."""
        return True

    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: Any = ..., target: TargetType = ...,
        additional_forward_args: Any = ..., n_steps: int | None = ..., method: str = ...,
        internal_batch_size: int | None = ..., return_convergence_delta: Literal[False] = ..., *,
        attention_baselines: AttentionBaselines = ..., tolerance: float | None = ..., reduce: None = ...,
        show_progress: bool = ..., attribute_to_layer_input: bool = ...,
    ) -> Attributions: ...  # fmt: skip
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: Any = ..., target: TargetType = ...,
        additional_forward_args: Any = ..., n_steps: int | None = ..., method: str = ...,
        internal_batch_size: int | None = ..., *, return_convergence_delta: Literal[True],
        attention_baselines: AttentionBaselines = ..., tolerance: float | None = ..., reduce: None = ...,
        show_progress: bool = ..., attribute_to_layer_input: bool = ...,
    ) -> tuple[Attributions, Tensor | list[Tensor]]: ...  # fmt: skip
    @overload
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], baselines: Any = ..., target: TargetType = ...,
        additional_forward_args: Any = ..., n_steps: int | None = ..., method: str = ...,
        internal_batch_size: int | None = ..., return_convergence_delta: bool = ..., *,
        attention_baselines: AttentionBaselines = ..., tolerance: float | None = ..., reduce: Reduce = ...,
        show_progress: bool = ..., attribute_to_layer_input: bool = ...,
    ) -> Any: ...  # fmt: skip
    @log_usage()  # type: ignore[untyped-decorator]  # Captum's
    @with_gradients(True)
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        baselines: Any = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_steps: int | None = None,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        attention_baselines: AttentionBaselines = None,
        tolerance: float | None = None,
        reduce: Reduce = None,
        show_progress: bool = False,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        r"""Attribute the output to every token pair of every head of the layers.

        Args:
            inputs: First arguments of ``forward_func``: a tensor or a tuple of tensors, integer or float.
            baselines: Inputs (tensor, tuple, or a number for all entries) at which the layers' attention is taken
                as A0. Without them A0 is no attention at all.
            target: Which entry of the output to explain, in any of Captum's forms; None for one number per example.
            additional_forward_args: Further arguments of ``forward_func``: masks, token types, anything.
            n_steps: Number of evaluations on the path, for each example and layer, 20 by default; with ``tolerance``
                the maximum, 1,000 by default.
            method: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle" or "riemann_trapezoid".
            internal_batch_size: Maximum number of rows in one run of the model; None chooses it to fit memory.
            return_convergence_delta: Return sum(Attr) - (F(A) - F(A0)) as well.
            attention_baselines: A0 itself, in place of ``baselines``: a number, a tensor that broadcasts to A,
                "uniform" (1 / number of keys that the query may attend to), or a list with one of these a layer.
            tolerance: Relative error to reach: each example takes, in each layer, as many evaluations as it needs,
                usually a few. A smooth path has converged when the gap sum(Attr) - (F(A) - F(A0)) has at most the size
                ``tolerance`` times the norm of Attr, and on each part of the path at most five times that. A rough path
                is divided where it is rough until its estimated error is as small, too
                (:mod:`captum_attattr.engine.panels`). The method then chooses the nodes itself.
            reduce: Scores to return in place of all pairs: "sum", "absolute" or "max" of each head (batch, head),
                "received" or "sent" of each token, or "first", what the first token reads, summed over heads (batch,
                token), ``TopPairs(k)``, a :class:`Reduction` of your own, or a tuple of these. Memory then grows with
                the number of tokens, not with its square, as no matrix of a whole layer is made. On the joint path
                this holds only for the default A0, no attention.
            show_progress: Show a progress bar on standard error.
            attribute_to_layer_input: For calls made as those of Captum's layer methods: only False is possible.

        Returns:
            A tensor (batch, head, query, key) for one layer, a list of them for a list of layers, in its order,
            float32 or wider; with ``reduce`` the scores that it names, a tuple of them for a tuple. Pairs that the mask
            forbids, and those of padding, are exactly zero. Where a model's attention has several rows for each
            example (choices, windows, images), they count as further heads: (batch, row * head, query, key). With
            ``return_convergence_delta`` a pair of the above and the delta: (batch,) for one layer and for the joint
            path, whose layers add up; else a list of (batch,), one a layer.

        Raises:
            ValueError: Inputs, target, rule or baselines do not fit, dropout is active, or the output or a gradient is
                not finite. The message says which.
            TypeError: An argument is of the wrong type.
            UnsupportedModelError: The attention probabilities of a layer cannot be reached, or it cannot be told which
                of its rows belong to which example.

        Warns:
            UserWarning: ``n_steps`` did not suffice for ``tolerance``; or, with a fixed rule, the gap is larger than 5%
                of the norm of Attr. The warning names the layers and the size of the error.

        Example:
            >>> from captum_attattr import SelfAttentionAttribution, attention_layers
            >>> from captum_attattr.demo import load_demo
            >>> model, tokenizer = load_demo()
            >>> batch = tokenizer("A warm, funny film.", return_tensors="pt")
            >>> top = attention_layers(model)[-1]
            >>> attributions, delta = SelfAttentionAttribution(model, top).attribute(
            ...     batch["input_ids"], target=1, return_convergence_delta=True
            ... )
            >>> bool(delta.abs() < 1e-3)
            True
        """
        if attribute_to_layer_input:
            raise ValueError(
                "attribute_to_layer_input=True has no meaning here: a layer's attention is explained, not its input "
                "or output. Leave it out."
            )
        if internal_batch_size is not None:
            check_count("internal_batch_size", internal_batch_size)
        integration = Integration.from_arguments(tolerance, n_steps, method)
        keep = Keep(reductions(reduce), self._multiply_by_inputs)
        recording = self._recorded(inputs, additional_forward_args)
        paths = self._paths(recording, baselines, additional_forward_args, attention_baselines)
        integrals = integrals_along(
            self._path,
            recording,
            paths,
            target,
            integration,
            keep,
            most_rows=internal_batch_size,
            progress=self.get_name() if show_progress else None,
        )
        self.convergence = convergence_of(integrals, self._path, paths, integration)
        results = self._as_given([as_asked(layer, reduce) for one in integrals for layer in one.kept])
        if not return_convergence_delta:
            return results
        return results, self._one_or_each([one.gap for one in integrals])

    @with_gradients(True)
    def compute_convergence_delta(
        self,
        attributions: Tensor | list[Tensor],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        *,
        attention_baselines: AttentionBaselines = None,
    ) -> Any:
        """Compute the error of completeness, sum(Attr) - (F(A) - F(A0)), of given attributions.

        Args:
            attributions: The result of :meth:`attribute`.
            start_point: The ``baselines`` that it was called with, or None.
            end_point: The ``inputs`` that it was called with.
            target, additional_forward_args, attention_baselines: The arguments that it was called with.

        Returns:
            (batch,), or a list of one such tensor a layer; on the joint path one tensor for all layers.

        Raises:
            ValueError: The attributions are of another number of layers or examples, or see :meth:`attribute`.
        """
        given = attributions if isinstance(attributions, (list, tuple)) else [attributions]
        if len(given) != len(self._layers()):
            raise ValueError(f"Got attributions of {len(given)} layers for {len(self._layers())} layers.")
        recording = self._recorded(end_point, additional_forward_args)
        if any(attribution.shape[0] != recording.forward.batch_size for attribution in given):
            sizes = sorted({attribution.shape[0] for attribution in given})
            raise ValueError(
                f"Got attributions of {sizes} examples for inputs of {recording.forward.batch_size}: the batch "
                "sizes must agree."
            )
        paths = self._paths(recording, start_point, additional_forward_args, attention_baselines)
        rises = rises_along(self._path, recording, paths, target)
        sums = [attribution.flatten(1).sum(1) for attribution in given]
        if self._path.layers_add_up:
            sums = [torch.stack(sums).sum(0)]
        return self._one_or_each([total - rise.to(total) for total, rise in zip(sums, rises, strict=True)])

    def attention_function(
        self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None
    ) -> AttentionFunction:
        """Return the output as a function of attention probabilities, for these inputs: :class:`AttentionFunction`."""
        return AttentionFunction(self.forward_func, self._layers(), inputs, additional_forward_args)

    def _layers(self) -> list[nn.Module]:
        return list(self.layer) if isinstance(self.layer, (list, tuple)) else [self.layer]

    def _as_given(self, values: list[Any]) -> Any:
        return values if isinstance(self.layer, (list, tuple)) else values[0]

    def _one_or_each(self, deltas: list[Any]) -> Any:
        return deltas[0] if self._path.layers_add_up else self._as_given(deltas)

    def _recorded(self, inputs: Any, additional_forward_args: Any) -> Recording:
        """Record a clean pass.

        Gradients are taken with respect to contexts only. ``requires_grad`` of parameters is left as it is, since
        another thread may be training them.
        """
        forward = Forward(self.forward_func, inputs, additional_forward_args)
        return Recording(forward, Listed(self._layers()), self._findings)

    def _paths(
        self, recording: Recording, baselines: Any, additional_forward_args: Any, attention_baselines: Any
    ) -> list[LayerPath]:
        states = recording.states
        if baselines is None:
            starts = attention_baseline(attention_baselines, states, isinstance(self.layer, (list, tuple)))
        elif attention_baselines is not None:
            raise ValueError("Give baselines (inputs) or attention_baselines, not both.")
        else:
            inputs = input_baselines(baselines, recording.forward.inputs)
            forward = Forward(self.forward_func, inputs, additional_forward_args)
            starts = starts_of(Recording(forward, Listed(self._layers())).states, states)
        return [LayerPath.from_state(state, start) for state, start in zip(states, starts, strict=True)]
