"""The engine of the method: one clean pass recorded and replayed, and integrals along paths from no attention to it.

From the bottom up. A forward function and its arguments (``forward``) are run once and recorded (``replay``); whether
replays do as the model does is tried before they are trusted (``trials``). A path says what attention is at each alpha
(``path``), a walk evaluates F and its gradient there (``walks``), and a rule of integration turns that into
attributions: a fixed one (``quadrature``, ``integration``), or one that adapts to a tolerance (``adaptive``, by
``nested_rules`` where a path is smooth, in ``panels`` where it is rough).
"""
