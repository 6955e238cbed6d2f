"""Small random classifiers that take text, with the demo's tokenizer or with tokenizers trained on the spot."""

from __future__ import annotations

from functools import cache

import tokenizers as tk
import torch
import transformers as hf
from torch import nn

from captum_attattr.text.classifier import load_classifier

WORDS = "a warm funny film about films and filmmaking , unfunny and unwatchable : how warming , how watchable !"


@cache
def demo():
    """The bundled model, which tests share, and its tokenizer."""
    return load_classifier()


def lively(model: nn.Module) -> nn.Module:
    """The usual initialisation is so small that attention hardly matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(10 if "embed" in name else 4)
    return model.eval()


def sizes(tokenizer, **settings):
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    return {"vocab_size": len(tokenizer), "num_labels": 3, **sizes, **settings}


def bert(config_class=hf.BertConfig, model_class=hf.BertForSequenceClassification, **settings):
    """A tiny random classifier (of a sentence, or of a pair) and the demo's tokenizer."""
    torch.manual_seed(0)
    tokenizer = demo()[1]
    return lively(model_class(config_class(**sizes(tokenizer, pad_token_id=0, **settings)))), tokenizer


def byte_level(special=("<s>", "<pad>", "</s>"), wrapped=True, **settings):
    """A byte-level BPE tokenizer as RoBERTa's (wrapped in <s> </s>) or GPT-2's (not)."""
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, special, 320, alphabet)
    if wrapped:
        ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
        tokenizer.post_processor = tk.processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", ends)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def metaspace(pre_tokenized=True):
    """A SentencePiece-like tokenizer: as T5's and XLM-R's, or as Llama's, which does not split words beforehand."""
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.Metaspace()
    _train(tokenizer, ("<pad>",), 60, [])
    if not pre_tokenized:
        replaced = [tk.normalizers.Prepend("\u2581"), tk.normalizers.Replace(" ", "\u2581")]
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = tk.normalizers.Sequence(replaced)
    tokenizer.decoder = tk.decoders.Metaspace()
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def _train(tokenizer, special, size, alphabet):
    trainer = tk.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS], trainer)


def roberta(tokenizer, **settings):
    torch.manual_seed(0)
    config = hf.RobertaConfig(**sizes(tokenizer, pad_token_id=1, type_vocab_size=3, **settings))
    return lively(hf.RobertaForSequenceClassification(config))


def gpt2(tokenizer, **settings):
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=3, n_head=2, n_positions=64, num_labels=3, bos_token_id=0,
        eos_token_id=0, **settings,
    )  # fmt: skip
    return lively(hf.GPT2ForSequenceClassification(config))
