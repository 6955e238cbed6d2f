"""A classifier's accuracy as its heads are removed, in the order that each measure gives.

    python -m benchmarks.pruning --data FOLDER

The experiment of Hao et al. (AAAI 2021, section 5) on the bundled model. FOLDER holds SST-2 as ``test.tsv`` (the
official validation set, whole sentences: accuracy is taken on it) and ``dev.tsv`` (a part of the training set that the
model was not trained on: importance is taken on whole sentences of it), columns sentence and label.

Every result is kept in ``pruning.jsonl`` as soon as it is there: give the same command again to go on. When all
are there, ``pruning.json``, ``pruning.md`` and ``pruning.png`` are written and the state is removed.
"""
