"""The importance of each head of a model over a data set, gathered batch by batch, on one process or several."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_attattr.arguments import check_choice
from captum_attattr.attention import HeadNumbers, UnsupportedModelError, attention_layers
from captum_attattr.engine.forward import uncompiled
from captum_attattr.files.digest import Digest
from captum_attattr.files.records import Record, check_settings, checked
from captum_attattr.heads.checkpoint import Checkpoint, model_fingerprint
from captum_attattr.heads.feeding import Feed, feed, split_labels
from captum_attattr.heads.importance import Importance
from captum_attattr.heads.measure import Measure
from captum_attattr.heads.measures import measure_of
from captum_attattr.heads.moments import Moments, MomentsRecord, merge
from captum_attattr.heads.outputs import Examples, FirstPass, count_of, examples_of
from captum_attattr.heads.processes import check_agreement, gathered, rank_and_size
from captum_attattr.text.model_output import Kind, output_of


class _State(Record):
    settings: dict[str, Any]
    moments: MomentsRecord | None


class HeadImportance:
    r"""The importance of every attention head: the mean of a measure over examples.

    For the measure "attattr", with F the probability of the gold label,

    .. math:: I_h = E_x [ \max Attr_h(A) ]

    (Hao, Dong, Wei, Xu: Self-Attention Attribution, AAAI 2021, eq. 6). The other measures are listed in
    :mod:`captum_attattr.heads.measures`.

    Under ``torchrun``, Accelerate or Ray Train each process is given the same data and takes its part of the batches;
    :meth:`compute` and :meth:`run` return the result over all examples on every process.

    Args:
        model: A transformers model that gives logits, or any function of the inputs that runs one; then ``layers``
            must be given.
        layers: Attention layers, all by default: the rows of the result.
        measure: Name of a measure, or a :class:`captum_attattr.heads.Measure`.
        output: F: the "probability" of the target (default) or its "logit"; for a function "given", its output as it
            is. A regression model's output is always taken as it is.
        target: "gold" for the labels of each batch, or "predicted". If an example has several labels, F is the mean
            over them: over the labels of a text (a row of 0 and 1, for models whose labels do not exclude each other),
            or over the tokens that have one (a row of labels, -100 for none). For language models "next": the label of
            a token belongs to the output of the token before it.

    Raises:
        TypeError, ValueError: An argument is of the wrong type, or unknown.
        UnsupportedModelError: The model's attention cannot be reached.

    Example:
        >>> from captum_attattr import HeadImportance
        >>> from captum_attattr.demo import load_demo
        >>> model, tokenizer = load_demo()
        >>> importance = HeadImportance(model, measure="attattr")
        >>> importance.update(tokenizer(["A warm film.", "A dull film."], return_tensors="pt"), [1, 0])
        >>> found = importance.compute()
        >>> found.scores.shape, found.examples
        (torch.Size([6, 12]), 2)
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[nn.Module] | None = None,
        measure: str | Measure = "attattr",
        *,
        output: Kind | None = None,
        target: Literal["gold", "next", "predicted"] = "gold",
    ) -> None:
        if not callable(model):
            raise TypeError(
                f"model must be a transformers model or a function that runs one, got {type(model).__name__}."
            )
        model = uncompiled(model)
        if not isinstance(model, nn.Module) and layers is None:
            raise ValueError("With a function in place of a model give the layers: layers=attention_layers(model).")
        check_choice("target", target, ("gold", "next", "predicted"))
        self.measure = measure_of(measure)
        self._model, self._config, self._target = model, getattr(model, "config", None), target
        self._layers = list(attention_layers(model) if layers is None else layers)
        self._asked = self._output = output_of(output, model)
        self._first_pass: FirstPass | None = None
        self._moments: Moments | None = None

    # The data

    def update(self, batch: Any, target: Any = None) -> None:
        """Add a batch.

        Args:
            batch: The model's inputs: a mapping (such as a tokenizer returns, with or without "labels"), a tensor, or a
                tuple of tensors. They are moved to the model's device.
            target: The label of each example, a row of its labels, or a target in any of Captum's forms if the output
                is not one number a label. Not needed with ``target="predicted"``, nor for a model with one output.

        Raises:
            ValueError: Labels are missing or not the model's, dropout is active, or the output is NaN.
        """
        if isinstance(batch, Mapping):
            batch, labels = split_labels(batch)
            target = labels if target is None else target
        self._add(batch, target, None)

    def run(
        self,
        data: Any,
        *,
        tokenizer: Any = None,
        batch_size: int = 16,
        checkpoint: str | os.PathLike[str] | None = None,
        show_progress: bool = False,
    ) -> Importance:
        """Add a whole data set, and compute.

        Args:
            data: A DataLoader, or another iterable of batches: mappings with "labels", or (inputs, labels). Or a data
                set of tokenized items, such as a ``datasets.Dataset``; columns that the model does not take are left
                out. Or texts: a list of (text, label) or of :class:`captum_attattr.files.examples.Example`. Items and
                texts are sorted by length to save padding. Give each process the same data in the same order.
            tokenizer: The model's tokenizer; needed for texts.
            batch_size: Number of items or texts in a batch.
            checkpoint: A file that is updated after each batch. If it exists, the run continues from it: nothing is
                lost or counted twice. It stays when the run is done. With another number of threads or on another
                processor rounding differs: scores then agree with those of an unbroken run to about 1e-6 of the output
                F for a model in float32, 1e-12 in float64.
            show_progress: Show a progress bar, with the time left, on standard error.

        Raises:
            ValueError: As :meth:`update`; or the data are empty, the checkpoint is of a run with other settings, model
                or data, or the processes disagree.
        """
        self._check_first(checkpoint)
        _, size = rank_and_size()
        fed = feed(data, self._model, tokenizer, batch_size)
        facts = {} if checkpoint is None and size == 1 else self._facts()
        facts |= {"batch size": batch_size, "number of examples": fed.count, "data": fed.fingerprint}
        check_agreement(facts)
        with Checkpoint.open(checkpoint, {**facts, "number of processes": size}) as state:
            self._go_through(fed, state, show_progress)
        return self._computed()

    def _go_through(self, fed: Feed, state: Checkpoint, show_progress: bool) -> None:
        """Add the batches that are not in the checkpoint yet, and update it after each."""
        rank, size = rank_and_size()
        self._moments = self._fitting(state.moments) or self._moments
        done, digest = state.batches, Digest()
        title = f"Heads by {self.measure.name}"
        disable = not show_progress or rank > 0
        with tqdm(initial=state.examples, total=fed.count, desc=title, unit="example", disable=disable) as bar:
            batches = 0
            for batches, (batch, labels) in enumerate(fed.batches, 1):
                digest.add((batch, labels))
                if batches <= done:
                    state.check(batches, digest)
                    continue
                if batches % size == rank:
                    self._add(batch, labels, fed.function)
                state.write(batches, count_of(batch), digest, self._moments)
                bar.update(count_of(batch))
        state.check(batches, digest, ended=True)
        check_agreement({"data": str(digest)})

    # The result

    def compute(self) -> Importance:
        """Compute the importance over all examples so far, of all processes together.

        Raises:
            ValueError: There were no examples, or the processes disagree on the model or the settings.
        """
        if rank_and_size()[1] > 1:
            check_agreement(self._facts())
        return self._computed()

    def _computed(self) -> Importance:
        parts = gathered(None if self._moments is None else self._moments.state_dict())
        moments = merge(None if part is None else Moments.from_state_dict(part) for part in parts)
        if moments is None:
            raise ValueError("There are no examples to compute an importance from: call update or run first.")
        settings = {
            **self._settings(),
            "versions": {name: version(name) for name in ("torch", "transformers", "captum")},
        }
        return Importance(moments.mean, moments.standard_deviation, moments.count, self.measure.name, settings)

    def reset(self) -> None:
        """Forget all examples."""
        self._moments = None

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of this process and the settings they belong to, in plain types."""
        return {"settings": self._facts(), "moments": None if self._moments is None else self._moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the moments of this process by those of :meth:`state_dict`.

        Raises:
            ValueError: The state is of another model or of other settings, or no such state.
        """
        found = checked(_State, state)
        check_settings("The state", found.settings, self._facts(), "leave it out to start anew")
        moments = None if found.moments is None else Moments.from_state_dict(found.moments.model_dump())
        self._moments = self._fitting(moments)

    def _add(self, batch: Any, labels: Any, function: Callable[..., Any] | None) -> None:
        device = next(self._model.parameters()).device if isinstance(self._model, nn.Module) else None
        examples = examples_of(batch, function or self._model, device, self._layers, self._output)
        first_pass = self._first_pass = self._first_pass or FirstPass.from_examples(examples)
        self._output = self._asked.over(first_pass.shape[-1] if first_pass.shape else 1)
        examples = replace(examples, layers=first_pass.layers, output=self._output)
        if self._target != "predicted" or first_pass.labels == 1:
            examples = replace(examples, labels=first_pass.checked(labels, examples, following=self._target == "next"))
        scores = self._in_place(examples)
        self._moments = merge((self._moments, Moments.from_values(scores)))

    def _in_place(self, examples: Examples) -> Tensor:
        """Compute scores (B, L, H), each head at its number in the unpruned model, NaN for pruned heads."""
        numbers = [HeadNumbers.from_layer(layer) for layer in examples.layers]
        shape = (len(examples.inputs[0]), len(numbers), max(layer.total for layer in numbers))
        grid = torch.full(shape, math.nan, dtype=torch.float64, device="cpu")
        places = [place for place, layer in enumerate(numbers) if layer.remaining]
        if not places:
            raise ValueError("All heads of these layers were pruned away: there is nothing to measure.")
        examples = replace(examples, layers=[examples.layers[place] for place in places])
        for place, values in zip(places, self.measure.scores(examples), strict=True):
            if values.shape != (shape[0], len(numbers[place].remaining)):
                raise UnsupportedModelError(
                    f"The measure {self.measure.name!r} gave scores of shape {tuple(values.shape)} for {shape[0]} "
                    f"examples and {len(numbers[place].remaining)} heads of layer {place}. Where each example has "
                    "several rows of attention (choices, windows, images), use measure='attattr'."
                )
            if not torch.isfinite(values).all():
                raise ValueError(
                    f"The measure {self.measure.name!r} is NaN or infinite for heads of layer {place}: check that the "
                    "model's weights and its output for this batch are finite."
                )
            grid[:, place, list(numbers[place].remaining)] = values.detach().to("cpu", torch.float64)
        return grid

    def _fitting(self, moments: Moments | None) -> Moments | None:
        """Return moments from a checkpoint or state if they have the shape of these layers' heads."""
        heads = max(HeadNumbers.from_layer(layer).total for layer in self._layers)
        if moments is not None and (moments.mean.shape[1] != heads or moments.mean.shape[0] < len(self._layers)):
            raise ValueError(
                f"The state holds scores of {tuple(moments.mean.shape)} layers and heads, the model has "
                f"{len(self._layers)} layers of {heads} heads: give the model and layers that it was made with."
            )
        return moments

    def _check_first(self, checkpoint: Any) -> None:
        if checkpoint is not None and self._moments is not None:
            raise ValueError("A run with a checkpoint must be the first: call reset() before, or make a new object.")

    def _settings(self) -> dict[str, Any]:
        name = getattr(self._config, "_name_or_path", "") or type(self._model).__name__
        return {
            "model": str(name),
            "measure": self.measure.settings(),
            "output": self._output.kind,
            "target": self._target,
        }

    def _facts(self) -> dict[str, Any]:
        """Return the settings that must be the same on all processes, and when a run is resumed."""
        settings = self._settings()
        del settings["model"]  # the same model may be in another folder
        settings["output"] = self._asked.kind  # the final kind is known only after a first batch
        model = self._model if isinstance(self._model, nn.Module) else self._layers
        return {**model_fingerprint(model), "number of layers": len(self._layers), **settings}
