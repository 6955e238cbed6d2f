"""The engine of the method: a clean pass that is recorded and replayed, and integrals along paths of attention.

From the bottom up: a forward function and its arguments (``forward``) are run once and recorded (``replay``). In a
replay rows take recorded outputs (``replay_rows``), and rows of several layers may join on the way (``joining``);
replays are tested against the model's own output before they are used (``trials``). A kind of path says which layers
are scaled together (``paths``: ``layerwise``, ``joint``), and a layer's path gives its attention at each alpha
(``layer_path``). An integral along a path, a walk, says at which points it wants F and its gradient (``walks``); those
of several layers are evaluated together (``growing_batches``). An integration rule makes attributions of them: a fixed
rule (``quadrature``, ``integration``), or rules that adapt to a tolerance (``adaptive``), which are ``nested_rules`` on
smooth paths and ``panels`` on rough ones.
"""
