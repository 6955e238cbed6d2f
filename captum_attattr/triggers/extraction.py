"""Extraction of adversarial triggers: words that one prediction rests on, which may change that of other texts.

A trigger is found in one text and put into others (Hao et al., AAAI 2021, section on adversarial attacks; details that
the paper leaves open are as in the authors' scripts run_adver_connection.py and run_adver_evaluate.py):

1. Attribute the probability of the predicted class, layer by layer, to all token pairs.
2. Of all heads of all layers take the one with the largest attribution of a pair, and of this head the two pairs with
   the largest attributions. Leave out the second pair if its attribution is small compared with the first.
3. The tokens of these pairs, without [CLS], [SEP] and other special tokens, are the trigger; the sum of the pairs'
   attributions is its score.
4. Put the strongest triggers of a class into texts of other classes, at the same relative positions.

Differences from the authors' scripts: they insert single word pieces, here the whole word is inserted, so that the
result is a normal text; they count positions from 1, so that a first word comes second, here first words stay first and
last words last; patterns of special tokens only, which insert nothing, are no triggers here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_attattr.arguments import check_count
from captum_attattr.attribution import Integration, convergence_of, integrals_along
from captum_attattr.engine.layer_path import LayerPath
from captum_attattr.engine.layerwise import Layerwise
from captum_attattr.engine.reductions import Keep
from captum_attattr.files.examples import Example, texts_and_pairs
from captum_attattr.text.classifier import Batch, Classifier
from captum_attattr.triggers.attacks import checked_examples
from captum_attattr.triggers.patterns import Trigger

# Many tokenizers split at an apostrophe inside a word, but "don't" is one word.
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")


def extract_triggers(
    examples: Sequence[Example | str],
    model: Any = None,
    tokenizer: Any = None,
    *,
    top: int | None = 3,
    threshold: float = 0.02,
    second_pair: float = 0.2,
    n_steps: int = 6,
    batch_size: int = 8,
    show_progress: bool = False,
) -> list[Trigger]:
    """Extract the strongest triggers of every class that the model predicts for the examples.

    Args:
        examples: Texts or :class:`captum_attattr.files.examples.Example`, as ``read_examples`` returns them. Their
            labels are not used: a trigger belongs to the class that the model predicts.
        model: A sequence classification model, a folder or a name on the Hub; None for the bundled one.
        tokenizer: The model's tokenizer; needed if ``model`` is a module.
        top: Maximum number of triggers of a class; None for all.
        threshold: Leave out triggers with a lower score, in units of probability (0.02 is the authors' value).
        second_pair: Take the head's second pair only if its attribution is at least this fraction of the first's (0.2
            is the authors' value).
        n_steps: Number of evaluations on the path, for each text and layer (Gauss-Legendre).
        batch_size: Maximum number of texts at a time.
        show_progress: Show a progress bar on standard error.

    Returns:
        Class by class in the model's order, the strongest first; of triggers with the same words only the strongest.

    Raises:
        ValueError: There are no examples, a text is empty, pairs and single texts are mixed, settings are out of
            range, the model is a regression model, or the tokenizer does not give the positions of tokens in the text.
        TypeError: An argument is of the wrong type.
        UnsupportedModelError: The model's attention cannot be reached.

    Example:
        >>> from captum_attattr.triggers import extract_triggers
        >>> texts = ["A warm, funny film.", "A dull and lifeless mess."]
        >>> [trigger.label for trigger in extract_triggers(texts)]
        ['negative', 'positive']
    """
    classifier = Classifier(model, tokenizer, "probability")
    check_count("top", top, or_none=True)
    batches = each_pattern(examples, classifier, second_pair, n_steps, batch_size, show_progress=show_progress)
    found = [trigger for batch in batches for trigger in batch.values() if trigger is not None]
    return strongest(found, classifier.labels, top, threshold)


def each_pattern(
    examples: Sequence[Example | str],
    classifier: Classifier,
    second_pair: float = 0.2,
    n_steps: int = 6,
    batch_size: int = 8,
    *,
    done: Collection[int] = (),
    show_progress: bool = False,
) -> Iterator[dict[int, Trigger | None]]:
    """Yield the trigger of each example, by its number, batch after batch; None if all tokens are special.

    Batches whose examples are all ``done`` are skipped. The other batches, and so the results, are the same as without
    ``done``, bit for bit. Errors are those of :func:`extract_triggers`.
    """
    checked = checked_examples(examples, classifier, batch_size)
    if not 0 <= second_pair <= 1:
        raise ValueError(f"second_pair must be from 0 to 1, got {second_pair!r}.")
    if not getattr(classifier.tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(classifier.tokenizer).__name__} does not give the positions of tokens in the text, which are "
            "needed to find their words: use a fast tokenizer (AutoTokenizer gives one if there is one)."
        )
    with tqdm(total=len(checked), desc="Finding triggers", unit="text", disable=not show_progress) as bar:
        for batch in classifier.batches(*texts_and_pairs(checked), batch_size):
            if not set(batch.places) <= set(done):
                yield _patterns(classifier, batch, [checked[place] for place in batch.places], second_pair, n_steps)
            bar.update(len(batch.places))


def strongest(
    triggers: Sequence[Trigger], labels: Sequence[str], top: int | None = 3, threshold: float = 0.02
) -> list[Trigger]:
    """Return the ``top`` triggers of each label by score, without those below the threshold and repeated words."""
    chosen: list[Trigger] = []
    ranked = sorted(triggers, key=lambda trigger: -trigger.score)
    for label in labels:
        distinct: dict[Any, Trigger] = {}
        for trigger in ranked:
            if trigger.label == label and trigger.score >= threshold:
                distinct.setdefault((trigger.words, trigger.parts), trigger)
        chosen += list(distinct.values())[:top]
    return chosen


def strongest_pairs(attributions: Tensor, second_pair: float = 0.2) -> tuple[int, int, list[tuple[int, int]]]:
    """Return the layer and head with the largest attribution, and the (query, key) of its one or two largest pairs.

    Args:
        attributions: The attributions of one text (layer, head, query, key).
        second_pair: See :func:`extract_triggers`.
    """
    _, heads, width, _ = attributions.shape
    layer, head = divmod(int(attributions.flatten(2).amax(2).argmax()), heads)
    best = attributions[layer, head].flatten().topk(min(2, width * width))
    count = 1 + int(bool((best.values[1:] >= second_pair * best.values[0]).any()))
    return layer, head, [divmod(place, width) for place in best.indices[:count].tolist()]


class Word(NamedTuple):
    """A word of a text or pair: the number of its text, its position from 0 (first) to 1 (last), and the word."""

    part: int
    position: float
    text: str


def _patterns(
    classifier: Classifier, batch: Batch, examples: Sequence[Example], second_pair: float, n_steps: int
) -> dict[int, Trigger | None]:
    """Find the trigger of each text of a batch."""
    predicted, attributions = _attributed(classifier, batch, n_steps)
    found: dict[int, Trigger | None] = {}
    for row, (place, example) in enumerate(zip(batch.places, examples, strict=True)):
        kept = batch.real[row].to(attributions[0].device)
        own = torch.stack([layer[row][:, kept][:, :, kept] for layer in attributions])
        label = classifier.labels[predicted[row]]
        found[place] = _trigger(own, example, label, batch.tokens[row], classifier.tokenizer, second_pair)
    return found


def _attributed(classifier: Classifier, batch: Batch, n_steps: int) -> tuple[list[int], list[Tensor]]:
    """Return predicted classes, and attributions for their probabilities, (batch, head, query, key) a layer."""
    recording, _ = classifier.record(batch)
    predicted = recording.output.argmax(-1).tolist()
    paths = [LayerPath.from_state(state, None) for state in recording.states]
    integration = Integration.from_arguments(None, n_steps, "gausslegendre")
    integrals = integrals_along(Layerwise(), recording, paths, predicted, integration, Keep((None,), True))
    convergence_of(integrals, Layerwise(), paths, integration)
    return predicted, [one.kept[0][0] for one in integrals]


def _trigger(
    attributions: Tensor, example: Example, label: str, tokens: list[str], tokenizer: Any, second_pair: float
) -> Trigger | None:
    layer, head, pairs = strongest_pairs(attributions, second_pair)
    words = token_words(example, tokens, tokenizer)
    wanted = sorted({word for pair in pairs for token in pair if (word := words[token]) is not None and word.text})
    if not wanted:
        return None
    return Trigger(
        words=tuple(word.text for word in wanted),
        positions=tuple(word.position for word in wanted),
        parts=tuple(word.part for word in wanted),
        label=label,
        pairs=tuple((tokens[query], tokens[key]) for query, key in pairs),
        shares=tuple(float(attributions[layer, head, query, key]) for query, key in pairs),
        layer=layer,
        head=head,
        source=example.text,
        source_pair=example.text_pair,
    )


def token_words(example: Example, tokens: Sequence[str], tokenizer: Any) -> list[Word | None]:
    """Return the word of each token, which may be a piece of it; None for tokens that the tokenizer added."""
    # Cut to the same length as before: the same tokens again, now with their positions in the text.
    encoding = tokenizer(
        example.text, example.text_pair, truncation=True, max_length=len(tokens), return_offsets_mapping=True
    )
    texts = (example.text, example.text_pair or "")
    inside = [{at for match in _APOSTROPHE.finditer(text) for at in match.span()} for text in texts]
    spans: tuple[list[slice], list[slice]] = ([], [])
    found: list[tuple[int, int] | None] = []
    for token, part, (begin, end) in zip(tokens, encoding.sequence_ids(), encoding["offset_mapping"], strict=True):
        if part is None:
            found.append(None)
            continue
        adjacent = bool(spans[part]) and spans[part][-1].stop == begin
        goes_on = adjacent and (token.startswith("##") or begin in inside[part])
        spans[part].append(slice(spans[part].pop().start if goes_on else begin, end))
        found.append((part, len(spans[part]) - 1))
    words = [
        [Word(part, place / max(len(own) - 1, 1), texts[part][span].strip()) for place, span in enumerate(own)]
        for part, own in enumerate(spans)
    ]
    return [None if at is None else words[at[0]][at[1]] for at in found]
