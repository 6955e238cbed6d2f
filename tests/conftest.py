import torch

# The models are tiny: a second thread costs more than it gives, above all beside other work.
torch.set_num_threads(1)
