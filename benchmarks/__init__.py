"""Benchmarks: the questions whose answers are measured, and how. They are run from the folder that holds this one:

    python -m benchmarks.faithfulness --data FOLDER
    python -m benchmarks.faithfulness --help

Is it true?

* ``faithfulness``: does the output change when the tokens and attention edges that score highest are removed?
* ``outputs``: does it cost faithfulness to explain log-odds in place of a probability?
* ``sanity``: do attributions change when they must, and stay when they must?
* ``triggers``: do the patterns that attributions find turn the model, put into other texts?
* ``pruning``: how many heads can go, in the order of each measure, before accuracy falls?

Is it exact?

* ``tolerance``: does ``tolerance=0.01`` keep its word on every sentence of a data set, and what does it cost?
* ``convergence``: how fast do the rules, the tolerance and the work done by hand converge?
* ``rough_paths``: does the tolerance keep its word where paths are rough?
* ``rough_joint``: what do the rough lowest layers of a language model cost the joint path, and add to it?

What does it cost?

* ``speed``: how long does it take, beside the methods that a Captum user would pick instead?
* ``explain_speed``: where does the time of ``explain`` go, at the start and over many sentences?
* ``memory``: how much memory does it take above the loaded model?
* ``gpu``: how fast is it on a GPU, beside the methods that a Captum user would pick instead?
* ``pruned_speed``: what do pruned heads save?
* ``soak``: does memory stay flat over many explanations, and is every hook taken off?
* ``rows_left_out``: what does it save not to compute the rows that the output does not read?
* ``backends``: what does it cost to see attention at torch's level, where transformers' interface could be asked?
* ``trials``: which ways to be faster were tried, and where does the time go?

A question of several files is a folder, whose ``__main__.py`` runs it. ``setup`` is what they share; ``results`` holds
the figures, which a run replaces unless it is given another ``--output``.
"""
