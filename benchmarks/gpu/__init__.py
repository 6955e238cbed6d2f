"""How fast is it on a GPU, beside the methods that a Captum user would pick instead, and how much memory does it take?

    python -m benchmarks.gpu
    python -m benchmarks.gpu --quick  # tiny sizes, to see that it runs: on the CPU, too

* BERT-base size, 128 tokens, one sentence and 32: all pairs of all heads of all layers to tolerance 0.01, against
  ``IntegratedGradients`` over injected attention with its authors' 64 steps, and against ``LayerIntegratedGradients``
  on the embeddings with 50. Both get the number of rows a run of the model with which they are fastest.
* A decoder of 24 layers with grouped heads, 2,048 tokens: head scores (``reduce="sum"``) on both paths.

In float32 and bfloat16, with random weights. What is measured is kept as it comes: a run that was broken off goes on.
"""
