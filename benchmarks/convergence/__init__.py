"""Error against evaluations and against seconds: five rules, the tolerance, both paths, and the work done by hand.

    python -m benchmarks.convergence --data FOLDER

For some sentences, one at a time, F as probability and as logit of the predicted class: relative L2 error of each
layer's attributions, and seconds for all layers. The reference is 128 Gauss-Legendre nodes in float64. The float32
work that is timed: Captum's five rules from 2 steps to 32, tolerances from 0.1 to 0.001, and Captum's
``IntegratedGradients`` over injected attention, layer by layer, with 20 (the paper's) and 64 (its authors') left
Riemann steps. An evaluation is one node on the path: for the work by hand a pass through the whole model, for ours a
pass from the layer on.

Broken off, it goes on where it stopped. Nothing else should run beside it.
"""
