"""Sanity of the attributions: do they change when they must, and stay when they must?

    python -m benchmarks.sanity --data FOLDER

* Completeness: for every sentence and layer, the gap between the sum of the attributions and F(A) - F(A0).
* Signs: does the target's probability rise without the 10% most negative edges?
* Baselines: how alike are attributions from no attention, from uniform attention, and from a blanked-out sentence's?
* Padding and order of a batch: in float64, exactly no change but rounding.
* Model randomisation, from the top down: attributions must change.
* Label randomisation, and another seed: tiny models trained here on true and on shuffled labels.

Per-sentence results are appended to sanity.jsonl in the output folder: broken off, the same command goes on.
Without ``--data`` the bundled reviews are used, for training, too.
"""
