"""Attacks on a model with triggers: its accuracy, class by class, with and without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm.auto import tqdm

from captum_attattr.arguments import check_count
from captum_attattr.files.examples import Example
from captum_attattr.text.accuracy import Accuracy
from captum_attattr.text.classifier import Classifier
from captum_attattr.triggers.patterns import Trigger, apply_trigger


@dataclass(frozen=True)
class AttackResult:
    """A model's accuracy before and after attacks with triggers."""

    before: Accuracy
    after: tuple[Accuracy, ...]
    """The accuracy with each trigger put into every text, in the order of the triggers."""
    triggers: tuple[Trigger, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result in plain types, for JSON; ``others`` is the accuracy over all classes but the trigger's."""
        rows = [
            {
                "label": trigger.label,
                "words": list(trigger.words),
                "others_before": self.before.without(trigger.label),
                "others_after": after.without(trigger.label),
                **_accuracy_to_dict(after),
            }
            for trigger, after in zip(self.triggers, self.after, strict=True)
        ]
        counts = dict(zip(self.before.labels, self.before.counts, strict=True))
        return {"counts": counts, "before": _accuracy_to_dict(self.before), "after": rows}


def attack(
    examples: Sequence[Example],
    triggers: Sequence[Trigger],
    model: Any = None,
    tokenizer: Any = None,
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> AttackResult:
    """Compute the accuracy, class by class, before and after each trigger is put into every text.

    Args:
        examples: Examples with labels, by name or by number, as ``read_examples(path, labelled=True)`` returns them.
        triggers: Triggers of :func:`extract_triggers`, or made by hand.
        model: As in :func:`extract_triggers`; any classification model, whatever its attention.
        tokenizer: The model's tokenizer; needed if ``model`` is a module.
        batch_size: Maximum number of texts at a time.
        show_progress: Show a progress bar on standard error.

    Raises:
        ValueError: There are no examples or triggers, the model does not have a label, triggers are for pairs and
            examples are not, or the model is a regression model or in training mode.
        TypeError: An argument is of the wrong type.

    Example:
        >>> from captum_attattr.files.examples import Example
        >>> from captum_attattr.triggers import Trigger, attack
        >>> examples = [Example("A warm, funny film.", label="positive"), Example("What a bore.", label="negative")]
        >>> result = attack(examples, [Trigger(("dull", "mess"), (0, 1), label="negative")])
        >>> result.before.total
        1.0
        >>> result.after[0].per_class()
        {'negative': 1.0, 'positive': 0.0}
    """
    classifier = Classifier(model, tokenizer, "probability")
    checked = checked_examples(examples, classifier, batch_size)
    if isinstance(triggers, Trigger) or not all(isinstance(trigger, Trigger) for trigger in triggers):
        raise TypeError("triggers must be a list of Trigger, as extract_triggers and load_triggers return them.")
    if not triggers:
        raise ValueError("triggers is an empty list: give at least one, or extract some with a lower threshold.")
    if classifier.model.training:
        raise ValueError("The model is in training mode, where dropout makes predictions random: call model.eval().")
    with tqdm(
        total=len(checked) * (1 + len(triggers)), desc="Attacking", unit="text", disable=not show_progress
    ) as bar:
        runs = [checked, *([_attacked(example, trigger) for example in checked] for trigger in triggers)]
        before, *after = [Accuracy.from_examples(classifier, run, batch_size, bar.update) for run in runs]
    return AttackResult(before, tuple(after), tuple(triggers))


def _attacked(example: Example, trigger: Trigger) -> Example:
    if example.text_pair is None:
        return replace(example, text=apply_trigger(example.text, trigger))
    text, text_pair = apply_trigger(example.text, trigger, example.text_pair)
    return replace(example, text=text, text_pair=text_pair)


def _accuracy_to_dict(accuracy: Accuracy) -> dict[str, Any]:
    return {"total": accuracy.total, "per_class": accuracy.per_class(), "right": list(accuracy.right)}


def checked_examples(examples: Any, classifier: Classifier, batch_size: Any) -> list[Example]:
    """Check examples in which triggers are searched or on which they are tried; texts become examples."""
    if isinstance(examples, (str, Example)) or not isinstance(examples, Sequence):
        raise TypeError(f"examples must be a list of texts or of Example, got {type(examples).__name__}.")
    checked = [Example(example) if isinstance(example, str) else example for example in examples]
    for place, example in enumerate(checked):
        if not isinstance(example, Example):
            raise TypeError(f"example {place} is a {type(example).__name__}, expected a text or an Example.")
        for text in (example.text, *([] if example.text_pair is None else [example.text_pair])):
            if not isinstance(text, str):
                raise TypeError(f"example {place} has a {type(text).__name__} for a text.")
            if not text.strip():
                raise ValueError(f"example {place} has an empty text.")
    if not checked:
        raise ValueError("examples is an empty list: give at least one.")
    if len({example.text_pair is None for example in checked}) > 1:
        raise ValueError("Some examples have a second text and some have none: give single texts or pairs.")
    if not classifier.has_classes:
        raise ValueError("The model has one label, or none (regression): triggers need at least two classes.")
    check_count("batch_size", batch_size)
    return checked
