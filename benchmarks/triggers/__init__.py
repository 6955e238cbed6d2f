"""Effect on a model of triggers that self-attention attribution finds, against other ways of choosing words.

    python -m benchmarks.triggers --data FOLDER

FOLDER holds ``train.tsv`` and ``test.tsv`` with the columns sentence and label, as SST-2. In each of five rounds
(seeds) a random choice of training sentences is searched for the strongest three triggers of each class. A trigger of a
class is meant to turn texts of the *other* classes: each is put into every test sentence of those, at the same relative
positions, and the figure is the accuracy that is left on them. Five ways of choosing the words, all from the same
training sentences:

* attention attribution: ``extract_triggers`` (Hao et al., AAAI 2021).
* token-level integrated gradients: Captum's ``LayerIntegratedGradients`` over the word embeddings, [PAD] as baseline;
  the two tokens of a sentence with the largest attributions, the sentences ranked by the sum of the two.
* random, same shape: as many words as attention attribution has, at its positions, each from a random sentence of the
  class.
* random pair, random word: two words, or one, of a random sentence of the class, where they stood there.

Finished parts are kept in ``triggers.jsonl`` beside the results until all are there: the same command goes on
where it was broken off.
"""
