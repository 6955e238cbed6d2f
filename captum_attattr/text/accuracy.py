"""The accuracy of a classifier over labelled texts, class by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from captum_attattr.engine.gradients import with_gradients
from captum_attattr.files.examples import Example, label_numbers, texts_and_pairs
from captum_attattr.text.classifier import Classifier


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a model for each class.

    Example:
        >>> from captum_attattr.triggers import Accuracy
        >>> accuracy = Accuracy(("no", "yes"), (40, 60), (30, 60))
        >>> accuracy.total, accuracy.per_class(), accuracy.without("yes")
        (0.9, {'no': 0.75, 'yes': 1.0}, 0.75)
    """

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    """Number of examples of each class."""
    right: tuple[int, ...]
    """Number of those that are predicted correctly."""

    @classmethod
    @with_gradients(False)
    def from_examples(
        cls,
        classifier: Classifier,
        examples: Sequence[Example],
        batch_size: int = 32,
        done: Callable[[int], object] = id,
    ) -> Accuracy:
        """Compare a classifier's predictions with the examples' labels.

        Args:
            classifier: The model with its tokenizer.
            examples: Examples with labels.
            batch_size: Maximum number of texts at a time.
            done: Called with the number of texts after each batch.

        Raises:
            ValueError: An example has no label, or one that the model does not have.
        """
        gold, right = label_numbers(examples, classifier.labels), [0] * len(classifier.labels)
        for batch in classifier.batches(*texts_and_pairs(examples), batch_size):
            predicted = classifier.outputs(*batch.inputs).argmax(-1).tolist()
            for place, guess in zip(batch.places, predicted, strict=True):
                right[guess] += guess == gold[place]
            done(len(batch.places))
        return cls(tuple(classifier.labels), tuple(map(gold.count, range(len(right)))), tuple(right))

    @property
    def total(self) -> float:
        """The accuracy over all examples."""
        return sum(self.right) / sum(self.counts)

    def per_class(self) -> dict[str, float]:
        """Return the accuracy of each class that has examples."""
        rows = zip(self.labels, self.counts, self.right, strict=True)
        return {label: right / count for label, count, right in rows if count}

    def without(self, label: str) -> float | None:
        """Return the accuracy over all other classes, which a trigger of this class attacks; None without examples."""
        others = [number for number, own in enumerate(self.labels) if own != label and self.counts[number]]
        return sum(self.right[n] for n in others) / sum(self.counts[n] for n in others) if others else None
