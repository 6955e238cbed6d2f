"""What a person wants to see first: the sentence, what the output's token reads, and which words act together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from captum_attattr.aggregation import pair_scores
from captum_attattr.text.ranked import TokenPair, strongest_pairs

if TYPE_CHECKING:
    from captum_attattr.text.explanation import Explanation


@dataclass(frozen=True)
class Overview:
    """The three parts of an explanation that all pictures and texts show, in the unit of F.

    Args:
        explanation: The explanation, by words or by pieces, as it is to be shown.

    Example:
        >>> from captum_attattr import explain
        >>> Overview(explain("Not bad at all.").words).headline
        "positive 0.998: [CLS] reads 'bad' -1.14, outweighed by 'bad' looking at 'Not' +3.77"
    """

    explanation: Explanation

    @cached_property
    def pairs(self) -> Tensor:
        """(T, T): the attribution of each pair, summed over layers and heads; :attr:`sum_of_parts` says what it is."""
        return pair_scores(self.explanation.attributions)

    @property
    def added(self) -> float:
        """The sum of all attributions: what attention adds to F."""
        return float(self.pairs.sum())

    @property
    def without(self) -> float:
        """F with all attention at its baseline, as far as attributions add up."""
        return float(self.explanation.baseline_output[0])

    @cached_property
    def received(self) -> Tensor:
        """(T,): what each token receives from all queries."""
        return self.pairs.sum(0)

    @property
    def reader(self) -> int | None:
        """Position of the token that the output reads, None for several."""
        return self.explanation.reader

    @property
    def reads(self) -> Tensor:
        """(T,): the attribution of each token as read by the output's token, or by all if the output reads several."""
        return self.received if self.reader is None else self.pairs[self.reader]

    @property
    def reader_name(self) -> str:
        """The name of the token that the output reads."""
        return "every token" if self.reader is None else self.explanation.token_names[self.reader]

    @cached_property
    def own(self) -> list[int]:
        """Positions of the tokens that are in the text."""
        return [place for place, added in enumerate(self.explanation.special) if not added]

    @cached_property
    def queries(self) -> list[int]:
        """Positions of the tokens of the text that the map between words shows as queries: all but the reader."""
        return [place for place in self.own if place != self.reader]

    @cached_property
    def between(self) -> Tensor:
        """(queries, own): the attributions of words looking at words."""
        return self.pairs[self.queries][:, self.own]

    @property
    def part_between(self) -> float:
        """The magnitudes between words divided by all magnitudes."""
        return float(self.between.abs().sum() / self.magnitude)

    @cached_property
    def magnitude(self) -> float:
        """The sum of all magnitudes."""
        return float(self.pairs.abs().sum()) or 1.0

    def strongest_reads(self, k: int) -> list[tuple[int, float]]:
        """Return the k tokens that the output's token reads most, with their attributions, the largest first."""
        best = self.reads.abs().topk(min(k, len(self.reads))).indices.tolist()
        return [(place, float(self.reads[place])) for place in best if self.reads[place]]

    def strongest_between(self, k: int) -> list[TokenPair]:
        """Return the k strongest pairs of words."""
        found = strongest_pairs(self.between, k) if self.between.numel() else []
        return [TokenPair(self.queries[pair.query], self.own[pair.key], pair.score) for pair in found]

    @property
    def answer(self) -> str:
        """The prediction: its label and probability, or a regression model's number."""
        e = self.explanation
        if e.output_name == "output":
            return f"{e.explained} {e.output:.3f}"
        return f"{e.prediction} {float(e.probabilities.max()):.3f}"

    @property
    def headline(self) -> str:
        """The answer, the word that is read most and the strongest pair of words, in one line.

        If both speak against the sum, what speaks for it most follows.
        """
        reads, pairs = self._reads_in_words(), self._pairs_in_words()
        first = [*(("reads", one) for one in reads[:1]), *(("pair", one) for one in pairs[:1])]
        said = ""
        for kind, (words, score) in first:
            said += self._link(first[0][1][1], score) if said else ""
            said += f"{self.reader_name} reads {words}" if kind == "reads" else words
        if first and all(self._against(score) for _, (_, score) in first):
            said += self._what_outweighs(reads, pairs)
        about = "" if self.explanation.label == self.explanation.prediction else f" (for {self.explanation.label!r})"
        return f"{self.answer}: {said or 'attention adds nothing'}{about}"

    def _reads_in_words(self) -> list[tuple[str, float]]:
        names = self.explanation.token_names
        found = [(place, score) for place, score in self.strongest_reads(len(names)) if place in self.own]
        return [(f"{names[place]!r} {score:+.2f}", score) for place, score in found]

    def _pairs_in_words(self) -> list[tuple[str, float]]:
        names = self.explanation.token_names
        found = self.strongest_between(self.between.numel())
        return [(f"{names[p.query]!r} looking at {names[p.key]!r} {p.score:+.2f}", p.score) for p in found]

    def _against(self, score: float) -> bool:
        return (score > 0) != (self.added > 0)

    def _what_outweighs(self, reads: Sequence[tuple[str, float]], pairs: Sequence[tuple[str, float]]) -> str:
        named = [(f"{self.reader_name} reading {words}", score) for words, score in reads]
        helping = [one for one in [*named, *pairs] if not self._against(one[1])]
        return f", outweighed by {max(helping, key=lambda one: abs(one[1]))[0]}" if helping else ""

    def _link(self, first: float, second: float) -> str:
        if (first > 0) == (second > 0):
            return ", and "
        return ", despite " if self._against(second) else ", outweighed by "

    @property
    def sum_of_parts(self) -> str:
        """F as a sum: without attention, and what attention adds; of layerwise attributions their ranking."""
        e = self.explanation
        if e.sums_only_rank:
            return f"{e.explained} {number(e.output)}; sums over layers are a ranking, not shares"
        start = e.settings.get("baseline", "no attention")
        without = "without attention" if start == "no attention" else f"with attention at {start}"
        change = f"{'-' if self.added < 0 else '+'} {number(abs(self.added))}"
        what = e.output_name if e.label == e.prediction else e.explained
        return f"{what} {number(e.output)} = {number(self.without)} {without} {change} from attention"


def number(value: float) -> str:
    """Write a number with three significant digits.

    Example:
        >>> number(4.3267), number(0.05), number(-123.4)
        ('4.33', '0.0500', '-123')
    """
    return f"{value:#.3g}".removesuffix(".")


def signed(value: float) -> str:
    """Write a number with its sign and three significant digits."""
    return f"{value:+#.3g}".removesuffix(".")
