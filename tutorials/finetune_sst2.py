"""Fine-tune a Hugging Face checkpoint on SST-2: the model that the tutorials and the package explain.

    python tutorials/finetune_sst2.py --base bert-base-uncased --data glue/sst2 --output bert-sst2

``--base`` is a name on the Hub or a folder; ``--data`` is a dataset on the Hub or a folder with
``train.tsv``, ``dev.tsv`` and ``test.tsv`` (columns ``sentence`` and ``label``). A run that was
broken off goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import DatasetDict, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

LABELS = {0: "negative", 1: "positive"}


def load_sst2(data: str) -> DatasetDict:
    """Splits ``train``, ``dev`` and ``test``; on the Hub the labelled validation split is the test."""
    if Path(data).is_dir():
        files = {split: str(Path(data) / f"{split}.tsv") for split in ("train", "dev", "test")}
        return load_dataset("csv", data_files=files, delimiter="\t", quoting=csv.QUOTE_NONE)
    hub = load_dataset(*data.split("/", 1))
    parts = hub["train"].train_test_split(test_size=0.1, seed=0)
    return DatasetDict(train=parts["train"], dev=parts["test"], test=hub["validation"])


def tokenize(dataset: DatasetDict, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    def encode(rows: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer([s.strip() for s in rows["sentence"]], truncation=True, max_length=128)
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    return dataset.map(encode, batched=True, remove_columns=["sentence"])


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def training_arguments(args: argparse.Namespace) -> TrainingArguments:
    has_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(Path(args.output) / "checkpoints"),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        warmup_steps=0.06,
        weight_decay=0.01,
        bf16=not has_gpu or torch.cuda.is_bf16_supported(),
        use_cpu=not has_gpu,
        dataloader_pin_memory=has_gpu,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=500,
        save_total_limit=1,
        logging_steps=100,
        report_to="none",
        seed=args.seed,
    )


def finetune(args: argparse.Namespace) -> dict[str, Any]:
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base, trust_remote_code=False)
    data = tokenize(load_sst2(args.data), tokenizer)
    if args.limit:
        data = DatasetDict({k: v.select(range(min(args.limit, len(v)))) for k, v in data.items()})
    model = AutoModelForSequenceClassification.from_pretrained(
        args.base,
        num_labels=2,
        id2label=LABELS,
        label2id={v: k for k, v in LABELS.items()},
        trust_remote_code=False,
    )
    trainer = Trainer(
        model=model,
        args=training_arguments(args),
        train_dataset=data["train"],
        eval_dataset=data["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    checkpoints = Path(args.output) / "checkpoints"
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(checkpoints) if checkpoints.is_dir() else None)
    seconds = time.perf_counter() - started
    trainer.save_model(args.output)
    figures = {
        split: trainer.evaluate(data[split], metric_key_prefix=split)[f"{split}_accuracy"] for split in ("dev", "test")
    }
    return {
        **{f"{split}_accuracy": value for split, value in figures.items()},
        "train_sentences": len(data["train"]),
        "test_sentences": len(data["test"]),
        "seconds_of_this_run": round(seconds, 1),
        "settings": {k: v for k, v in vars(args).items() if k not in ("output", "data", "base")},
        "base": Path(args.base).name,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="bert-base-uncased", help="checkpoint to start from: Hub name or folder")
    parser.add_argument("--data", default="glue/sst2", help="Hub dataset or folder of TSV files")
    parser.add_argument("--output", required=True, help="folder for model, tokenizer and figures")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only so many sentences of each split, for a quick look")
    args = parser.parse_args()
    figures = finetune(args)
    (Path(args.output) / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
