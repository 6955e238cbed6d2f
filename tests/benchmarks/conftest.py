import copy

import pytest
import torch
from transformers import BertForSequenceClassification

from captum_attattr.demo import load_demo


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A folder with a classifier of two layers and random weights, for what does not depend on training."""
    model, tokenizer = load_demo()
    config = copy.deepcopy(model.config)
    config.update({"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4})
    config.initializer_range = 0.3
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small") / "model"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
