"""Time of self-attention attribution of every layer, against the methods that a Captum user would pick instead.

    python -m benchmarks.speed

Three parts, each with both sides in one run and in turn:

* The same work: 20 Gauss-Legendre steps at BERT-base size, 128 tokens. Ours against ``IntegratedGradients`` over
  injected attention, layer by layer. The unit is a forward pass of the model, per row of a batch as large as the ones
  that the method runs. The bound is what replays need if a backward pass costs what a forward pass does:
  2 sum_l (L - l - 1/4) / L forward passes a step. It counts every row of the topmost block.
* The same answer: ours to ``tolerance=0.01`` against injected attention with 64 left Riemann steps (the setting of the
  authors' code) and 20 (the paper's), and against ``LayerIntegratedGradients`` on the embeddings with its 50 steps,
  which gives one score a token. Three sizes of model, three lengths, two batch sizes.
* Growth: time against layers, tokens and batch.

The bundled model is trained; BERT-base and BERT-large sizes have random weights, which need the first rule of
evaluations only (the evaluations used are in the table). Work that would take long is timed in a part and filled in, by
the rule that the page states: these figures say "~".
"""
