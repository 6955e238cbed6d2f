"""Models whose paths are rough: small ones trained on copying, and a language model from a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from tqdm import tqdm

from captum_attattr import attention_layers

WORDS, LENGTH, START, SEPARATOR = 64, 7, 1, 2
SMALL = {
    "vocab_size": WORDS, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": START,
    "eos_token_id": 0,
}  # fmt: skip

# What follows is one name, and the other stands in the sentence, too.
PROMPTS = [
    ("When Mary and John went to the store, John gave a drink to", " Mary", " John"),
    ("When Tom and Anna went to the park, Anna threw the ball to", " Tom", " Anna"),
    ("After Paul and Kate had lunch, Paul gave the bill to", " Kate", " Paul"),
    ("While Sarah and James were working, Sarah handed a note to", " James", " Sarah"),
    ("The capital of France is", " Paris", " London"),
    ("The capital of Germany is", " Berlin", " Paris"),
    ("The opposite of hot is", " cold", " warm"),
    ("The opposite of big is", " small", " large"),
    ("The keys to the cabinet", " are", " is"),
    ("The author near the senators", " is", " are"),
    ("The boys that the girl likes", " are", " is"),
    ("The cat sat on the", " floor", " sky"),
    ("Two plus two equals", " four", " five"),
    ("The sun rises in the", " east", " west"),
    ("She opened the door and saw that he was", " standing", " red"),
    ("I have never been so", " happy", " book"),
    ("The film was boring and the plot was", " dull", " great"),
    ("Water freezes at zero degrees", " Celsius", " apples"),
    ("My brother is a doctor and he works in a", " hospital", " river"),
    ("Once upon a time there was a little", " girl", " number"),
]

Explained = Callable[[Callable[..., Any], Tensor], Tensor]


@dataclass(frozen=True)
class Rough:
    """A model, its attention layers, and what is asked of it."""

    model: nn.Module
    layers: Callable[[nn.Module], list[nn.Module]]
    """Of the model, or of a copy of it."""
    questions: list[tuple[Tensor, Explained]]
    """Inputs (1, tokens), and F for them: a difference of two logits."""

    def to(self, device: str) -> Rough:
        """The model, which is moved, and its questions on this device."""
        questions = [(ids.to(device), explained) for ids, explained in self.questions]
        return replace(self, model=self.model.to(device), questions=questions)


def copying_decoder(name: str, examples: int, seed: int = 0, steps: int = 800) -> Rough:
    """A Gemma 3 or an OLMo 2 that has learnt to say a list of words once more."""
    torch.manual_seed(seed)
    model: nn.Module = {
        "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SMALL)),
        "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"})),
    }[name]()

    def batch(count: int) -> Tensor:
        words = _words(count)
        return torch.cat([torch.full((count, 1), START), words, torch.full((count, 1), SEPARATOR), words], 1)

    def loss() -> Tensor:
        ids = batch(64)
        logits = model(ids[:, :-1]).logits[:, LENGTH:]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, LENGTH + 1 :].flatten())

    _train(model, loss, steps, name)
    questions = []
    for ids in batch(examples):
        place = LENGTH + 2 + int(torch.randint(LENGTH - 1, ()))
        questions.append((ids[:place].unsqueeze(0), _difference(int(ids[place]), int(ids[place - 1]))))
    return Rough(model, attention_layers, questions)


def copying_t5(examples: int, seed: int = 0, steps: int = 800) -> Rough:
    """The encoder of a T5 that has learnt to say a list of words once more."""
    torch.manual_seed(seed)
    config = hf.T5Config(
        vocab_size=WORDS, d_model=96, d_kv=24, d_ff=256, num_layers=4, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = hf.T5ForConditionalGeneration(config)

    def loss() -> Tensor:
        words = _words(64)
        found: Tensor = model(words, labels=words).loss
        return found

    _train(model, loss, steps, "t5")
    questions = []
    for words in _words(examples):
        place = int(torch.randint(1, LENGTH, ()))
        begun = torch.cat([torch.zeros(1, dtype=torch.long), words[:place]]).unsqueeze(0)

        options = {"decoder_input_ids": begun}
        questions.append((words.unsqueeze(0), _difference(int(words[place]), int(words[place - 1]), options)))
    return Rough(model, _encoder_layers, questions)


def language_model(folder: Path, gguf: str | None, examples: int) -> Rough:
    """A decoder of transformers from a folder, asked which of two words follows a prompt."""
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    loaded = hf.AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    loaded.config.__dict__.pop("quantization_config", None)  # of the file; the weights are plain ones now
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.eval().requires_grad_(False)
    questions = []
    for prompt, *words in PROMPTS[:examples]:
        right, wrong = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in words)
        questions.append((tokenizer(prompt, return_tensors="pt").input_ids, _difference(right, wrong)))
    return Rough(model, attention_layers, questions)


def _encoder_layers(model: Any) -> list[nn.Module]:
    return attention_layers(model.get_encoder())


def _words(count: int) -> Tensor:
    """Lists of different words, (count, LENGTH)."""
    return 3 + torch.stack([torch.randperm(WORDS - 3)[:LENGTH] for _ in range(count)])


def _difference(right: int, wrong: int, options: Mapping[str, Tensor] = MappingProxyType({})) -> Explained:
    def explained(model: Callable[..., Any], ids: Tensor) -> Tensor:
        others = {name: value.to(ids.device).expand(len(ids), -1) for name, value in options.items()}
        logits: Tensor = model(ids, **others, use_cache=False).logits[:, -1]
        return logits[:, right] - logits[:, wrong]

    return explained


def _train(model: nn.Module, loss: Callable[[], Tensor], steps: int, name: str) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    with tqdm(range(steps), desc=f"training {name}", unit="step") as bar:
        for _ in bar:
            value = loss()
            optimizer.zero_grad()
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{float(value.detach()):.3f}")
    model.eval().requires_grad_(False)
