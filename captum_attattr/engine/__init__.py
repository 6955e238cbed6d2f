"""The engine of the method: a clean pass that is recorded and replayed, and integrals along paths of attention.

From the bottom up: a forward function and its arguments (``forward``) are run once and recorded (``replay``). Replays
are tested against the model's own output before they are used (``trials``). A kind of path says which layers are
scaled together (``paths``: ``layerwise``, ``joint``), a layer's path gives its attention at each alpha
(``layer_path``), a walk evaluates F and its gradient there (``walks``), and an integration rule turns these into
attributions: a fixed rule (``quadrature``, ``integration``), or rules that adapt to a tolerance (``adaptive``), which
are ``nested_rules`` on smooth paths and ``panels`` on rough ones.
"""
