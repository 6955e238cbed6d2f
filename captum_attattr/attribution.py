"""Self-attention attribution: each token pair's signed share, in each head of each layer, in the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from captum._utils.typing import TargetType
from captum.attr import GradientAttribution, LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.adaptive import Adaptation
from captum_attattr.arguments import check_batch_size, check_layers, check_tolerance
from captum_attattr.attention_function import AttentionFunction
from captum_attattr.baselines import AttentionBaselines, attention_baseline, input_baselines, starts_of
from captum_attattr.chunks import Chunks
from captum_attattr.findings import Findings
from captum_attattr.forward import Forward
from captum_attattr.gradients import with_gradients
from captum_attattr.integration import Convergence, Integral, Rise, integrate
from captum_attattr.path import Path
from captum_attattr.quadrature import check_steps, quadrature, steps_of
from captum_attattr.reductions import Keep, Reduce, as_asked, reductions
from captum_attattr.replay import Recording
from captum_attattr.walks import JointWalk, LayerWalk, Walk, clean_gradients

PathName = Literal["layerwise", "joint"]


class SelfAttentionAttribution(LayerAttribution, GradientAttribution):
    r"""Integrated gradients over the attention probabilities of a Transformer's layers.

    For one layer with attention probabilities A (batch, head, query, key) and baseline A0,

    .. math:: Attr(A) = (A - A_0) \odot \int_0^1 \frac{\partial F(A_0 + \alpha (A - A_0))}{\partial A} d\alpha

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021, eq. 5). Entry [b, h, i, j] is the share of token i
    looking at token j, in head h, in the output of example b, in the unit of the output (a logit, a probability).
    The shares of a layer sum to F(A) - F(A0). Shares of different layers are shares of different
    differences and do not add up, except on the joint path.

    Args:
        forward_func: The model, or any function that runs it; it is called with the inputs and the additional
            arguments in order. It returns one output per example, or a model output of transformers with ``logits``.
        layer: One attention layer or a list of them, as :func:`attention_layers` gives them, in any order.
        device_ids: Captum's; not needed here.
        multiply_by_inputs: With False the factor A - A0 is left out: mean gradients, not shares.
        path: "layerwise" scales one layer at a time and recomputes the others (the paper's); "joint" scales all
            given layers together, each with its matrix frozen at the clean pass, so that their shares do add up.

    Attributes:
        convergence: After :meth:`attribute`, the evaluations that it took and the gaps that were left.

    Raises:
        TypeError: ``layer`` is not a module or a list of modules.
        ValueError: A layer is no attention layer, or the path is unknown.

    Example:
        >>> from captum_attattr import SelfAttentionAttribution, attention_layers
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> batch = tokenizer("A warm, funny film.", return_tensors="pt")
        >>> method = SelfAttentionAttribution(model, attention_layers(model))
        >>> shares = method.attribute(batch["input_ids"], target=1)  # one tensor a layer
        >>> shares[0].shape
        torch.Size([1, 12, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | list[nn.Module],
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        path: PathName = "layerwise",
    ) -> None:
        check_layers(layer)
        if path not in ("layerwise", "joint"):
            raise ValueError(f"Unknown path {path!r}. Choose 'layerwise' or 'joint'.")
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        GradientAttribution.__init__(self, forward_func)
        self._multiply_by_inputs = multiply_by_inputs
        self._path = path
        self._findings = Findings()
        self.convergence: Convergence | None = None

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions carry the factor A - A0."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """True: completeness gives a measure of the integration error."""
        return True

    @log_usage()
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
    ) -> Any:
        r"""Attribute the output to every token pair of every head of the layers.

        Args:
            inputs: What ``forward_func`` takes first: a tensor or a tuple of tensors, integer or float.
            baselines: Inputs (tensor, tuple, or a number for all entries) at which the layers' attention is taken
                as A0. Without them A0 is no attention at all.
            target: Which entry of the output to explain, in any of Captum's forms; None for one number per example.
            additional_forward_args: Further arguments of ``forward_func``: masks, token types, anything.
            n_steps: Number of evaluations on the path, for each example and layer, 20 by default; with ``tolerance`` at
                most so many, 1,000 by default.
            method: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle" or "riemann_trapezoid".
            internal_batch_size: At most so many rows in one run of the model; None picks what fits memory.
            return_convergence_delta: Give sum(Attr) - (F(A) - F(A0)) as well.
            attention_baselines: A0 itself, in place of ``baselines``: a number, a tensor that broadcasts to A,
                "uniform" (1 / number of keys that the query may attend to), or a list with one of these a layer.
            tolerance: Relative error to keep: each example takes, in each layer, as many evaluations as it needs, a
                handful as a rule. Smooth paths are judged by completeness: the size of the gap sum(Attr) - (F(A) -
                F(A0)) is at most ``tolerance`` times the norm of Attr, and on the parts of the path at most five times
                that. Rough ones are cut where they are rough, until their estimated error, too, is that small
                (:mod:`captum_attattr.panels`). The nodes are the method's own then.
            reduce: What to keep in place of every pair's share: "sum", "absolute" or "max" of each head (batch, head),
                "received" or "sent" of each token, summed over heads (batch, token), ``TopPairs(k)``, or a tuple of
                these. On the layerwise path no matrix of a whole layer is made then, and memory grows with the length.
            show_progress: Show a progress bar on standard error.

        Returns:
            A tensor (batch, head, query, key) for one layer, a list of them for a list of layers, in its order,
            float32 or wider; with ``reduce`` what it names, or a tuple of that for a tuple. Pairs that the mask
            forbids, and those of padding, are exactly zero. Where a model's attention has several rows for each
            example (choices, windows, images), they are further heads: (batch, row * head, query, key). With
            ``return_convergence_delta`` a pair of that and the delta: (batch,) for one layer and for the joint path,
            whose layers add up; else a list of (batch,), one a layer.

        Raises:
            ValueError: Inputs, target, rule or baselines do not fit, the model drops out at random, or its output
                or gradient is not finite. The message says which.
            TypeError: An argument is of the wrong kind.
            UnsupportedModelError: The attention probabilities of a layer are out of reach, or which of its rows
                belong to which example is.

        Warns:
            UserWarning: ``n_steps`` did not suffice for ``tolerance``; or, by a fixed rule, the gap is wider than 5% of
                the norm of Attr: it says in which layers, and by how much.

        Example:
            >>> from captum_attattr import SelfAttentionAttribution, attention_layers
            >>> from captum_attattr.demo import load_demo
            >>> model, tokenizer = load_demo()
            >>> batch = tokenizer("A warm, funny film.", return_tensors="pt")
            >>> top = attention_layers(model)[-1]
            >>> shares, delta = SelfAttentionAttribution(model, top).attribute(
            ...     batch["input_ids"], target=1, return_convergence_delta=True
            ... )
            >>> bool(delta.abs() < 1e-3)
            True
        """
        check_batch_size(internal_batch_size)
        check_tolerance(tolerance, method)
        n_steps = steps_of(n_steps, tolerance)
        check_steps(method, n_steps, fixed=tolerance is None)
        keep = Keep(reductions(reduce), self._multiply_by_inputs)
        recording = self._recorded(inputs, additional_forward_args)
        paths = self._paths(recording, baselines, additional_forward_args, attention_baselines)
        clean = recording.forward.scores(recording.output, target)
        count, device = recording.forward.batch_size, recording.states[0].context.device
        total = None if tolerance is not None else n_steps * count * (1 if self._path == "joint" else len(paths))
        with tqdm(total=total, desc=self.get_name(), unit="eval", disable=not show_progress) as bar:
            most = 1 if recording.one_by_one else internal_batch_size
            chunks = Chunks(count, most, device, bar.update)
            integrals: list[Integral] = []
            for walk in self._walks(recording, paths, target, chunks, tolerance is not None):
                bar.set_postfix(path=f"{len(integrals) + 1} of {len(paths)}")
                integrals.append(
                    Adaptation(walk, tolerance, n_steps, clean, keep).integral()
                    if tolerance is not None
                    else integrate(walk, *quadrature(method, n_steps), keep, clean)
                )
        self.convergence = Convergence.of(integrals)
        self.convergence.warn(self._names(recording), tolerance, n_steps)
        results = self._as_given([as_asked(layer, reduce) for one in integrals for layer in one.kept])
        if not return_convergence_delta:
            return results
        deltas: list[Any] = [one.gap for one in integrals]
        return results, deltas[0] if self._path == "joint" else self._as_given(deltas)

    @with_gradients(True)
    def compute_convergence_delta(  # type: ignore[override]
        self,
        attributions: Tensor | list[Tensor],
        start_point: Any,
        end_point: Tensor | tuple[Tensor, ...],
        target: TargetType = None,
        additional_forward_args: Any = None,
        *,
        attention_baselines: AttentionBaselines = None,
    ) -> Any:
        """The error of completeness, sum(Attr) - (F(A) - F(A0)), of attributions made before.

        Args:
            attributions: What :meth:`attribute` returned.
            start_point: The ``baselines`` that it was given; None for none.
            end_point: The ``inputs`` that it was given.
            target, additional_forward_args, attention_baselines: As it was given.

        Returns:
            (batch,), or a list of one such tensor a layer; on the joint path one tensor for all layers.
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
        clean = recording.forward.scores(recording.output, target)
        most = 1 if recording.one_by_one else None
        chunks = Chunks(recording.forward.batch_size, most, recording.states[0].context.device)
        walks = self._walks(recording, paths, target, chunks, False)
        sums = [attribution.flatten(1).sum(1) for attribution in given]
        if self._path == "joint":
            sums = [torch.stack(sums).sum(0)]
        deltas = []
        for walk, total in zip(walks, sums, strict=True):
            rise = Rise.of(walk, clean, walk.start(recording.forward.all_rows))
            deltas.append(total - rise.change.to(total))
        return deltas[0] if self._path == "joint" else self._as_given(deltas)

    def attention_function(
        self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None
    ) -> AttentionFunction:
        """The function from attention probabilities to output, for these inputs: see :class:`AttentionFunction`."""
        return AttentionFunction(self.forward_func, self._layers(), inputs, additional_forward_args)

    def _layers(self) -> list[nn.Module]:
        return list(self.layer) if isinstance(self.layer, (list, tuple)) else [self.layer]

    def _as_given(self, values: list[Any]) -> Any:
        return values if isinstance(self.layer, (list, tuple)) else values[0]

    def _recorded(self, inputs: Any, additional_forward_args: Any) -> Recording:
        """A clean pass. Gradients of what is replayed from it are asked for contexts only.

        Whether parameters require one is left alone: another thread may train them.
        """
        forward = Forward(self.forward_func, inputs, additional_forward_args)
        return Recording(forward, self._layers(), self._findings)

    def _paths(
        self, recording: Recording, baselines: Any, additional_forward_args: Any, attention_baselines: Any
    ) -> list[Path]:
        states = recording.states
        if baselines is None:
            starts = attention_baseline(attention_baselines, states, isinstance(self.layer, (list, tuple)))
        elif attention_baselines is not None:
            raise ValueError("Give baselines (inputs) or attention_baselines, not both.")
        else:
            inputs = input_baselines(baselines, recording.forward.inputs)
            forward = Forward(self.forward_func, inputs, additional_forward_args)
            # Methods of the baseline's states: their matrices, too, are made a range of queries at a time.
            starts = starts_of(Recording(forward, self._layers()).states, states)
        return [Path.to(state, start) for state, start in zip(states, starts, strict=True)]

    def _names(self, recording: Recording) -> list[str]:
        """Of the paths, for messages."""
        if self._path == "joint":
            return ["the joint path"]
        return [f"layers[{place}] ({state.name})" for place, state in enumerate(recording.states)]

    def _walks(
        self, recording: Recording, paths: list[Path], target: TargetType, chunks: Chunks, to_tolerance: bool
    ) -> Sequence[Walk]:
        if self._path == "joint":
            return [JointWalk(recording, paths, target, chunks)]
        known: Sequence[Any] = [None] * len(paths)
        if to_tolerance:
            known = clean_gradients(recording, paths, target, chunks)
        return [LayerWalk(recording, path, target, chunks, one) for path, one in zip(paths, known, strict=True)]
