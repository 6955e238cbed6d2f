"""Is it true? Tokens and attention edges removed in the order of each method's scores.

    python -m benchmarks.faithfulness --data FOLDER

Token level, every sentence: comprehensiveness, sufficiency and log-odds at 5, 10, 20 and 50%, with tokens hidden by the
attention mask, deleted, or replaced by [MASK], and the full curve with tokens hidden. Pair level, the first ``--pairs``
sentences: attention edges are cut in all layers at once and in one layer at a time, the most and the least important
first; and scores are compared with the exact effect of single edges (a sample) and of all single heads.

Sentences are taken in a random order (``--seed``) and each one's results are appended to faithfulness.jsonl in the
output folder: broken off, the same command goes on where it was, and a larger ``--limit`` adds to what is there.
Without ``--data`` the bundled reviews are used.
"""
