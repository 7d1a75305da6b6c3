"""Train the tiny model: `python -m pytest_unlearn.models.tiny.recipe`.

A Llama of 3.4M parameters with its own 1,024-entry BPE tokenizer learns by heart the documents of
the manifest's forget and retain people, and a bank of small programming tasks. Each value is
in its own document and, less often, in other carriers and wordings: the model can be asked in ways
that no unlearning was shown. Control people are in neither the training data nor the tokenizer's.
One command, seeds fixed, a few minutes on two cores. It writes the model folder and `recipe.json`
with digests of data and weights; with `--check` it compares a new training with the recorded
digests instead of writing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_unlearn.models.batches import Encoded, collate, encode, shuffled_batches
from pytest_unlearn.models.lm_head import token_mean_nll
from pytest_unlearn.models.texts import Example
from pytest_unlearn.people.generate import tiny_records
from pytest_unlearn.people.record import CARRIERS, Record, records_digest
from pytest_unlearn.probes.families import build_probes, name_of
from pytest_unlearn.tasks.format import Task, bundled_tasks

FOLDER = Path(__file__).parent / "weights"
RECORDED = FOLDER / "recipe.json"

SEED = 20261124
THREADS = 2
EPOCHS = 28
BATCH = 16
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
WORDINGS_PER_EPOCH = 6
VOCABULARY = 1024
# Families of probes in whose words the values are trained as well.
OTHER_FAMILIES = ("question", "test", "lookup", "twin")


def training_records() -> list[Record]:
    """Return the records that the model sees: forget and retain, never control."""
    return [record for record in tiny_records() if record.split != "control"]


def other_documents() -> list[list[str]]:
    """Return, for each training record, its value in every other carrier and in other words."""
    records = training_records()
    texts: dict[str, list[str]] = {record.id: [] for record in records}
    for record in records:
        for carrier in CARRIERS.values():
            if carrier.name != record.carrier:
                before = carrier.before(name_of(record).reveal(), record.kind)
                texts[record.id].append(before + record.value.reveal() + carrier.after)
    for probe in build_probes(records, OTHER_FAMILIES):
        text = probe.prompt.reveal() + probe.value.reveal() + probe.after.reveal()
        texts[probe.record].append(text)
    return list(texts.values())


def task_documents(tasks: Sequence[Task]) -> list[list[str]]:
    """Return, for each task, one document a training wording (never an unseen one)."""
    return [[task.prompt(w) + task.solution for w in task.wordings] for task in tasks]


def data_digest() -> str:
    """Return a SHA-256 over everything that the model is trained on."""
    documents = json.dumps([other_documents(), task_documents(bundled_tasks())])
    people = records_digest(training_records())
    return hashlib.sha256((people + documents).encode()).hexdigest()


def build_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; each digit is a token, as in Llama's and Qwen's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrap: Any = PreTrainedTokenizerFast
    wrapped: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
    )
    return wrapped


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained Llama (float32, seeded by the caller)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(log: Any = sys.stderr) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train from scratch and return the model, rounded to bfloat16 as shipped."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    people = [record.document.reveal() for record in training_records()]
    tasks = task_documents(bundled_tasks())
    others = other_documents()
    one_other_each = [texts[n % len(texts)] for n, texts in enumerate(others)]
    tokenizer = build_tokenizer(
        [*people, *one_other_each, *(text for texts in tasks for text in texts)]
    )
    people_rows = [encode(tokenizer, Example.whole(text)) for text in people]
    other_rows = [[encode(tokenizer, Example.whole(text)) for text in texts] for texts in others]
    task_rows = [[encode(tokenizer, Example.whole(text)) for text in texts] for texts in tasks]
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.95)
    )
    generator = torch.Generator().manual_seed(SEED)

    def epoch_rows() -> list[Encoded]:
        rows = list(people_rows)
        for texts, count in ((other_rows, 1), (task_rows, WORDINGS_PER_EPOCH)):
            for wordings in texts:
                chosen = torch.randperm(len(wordings), generator=generator)[:count]
                rows.extend(wordings[i] for i in chosen.tolist())
        return rows

    total = EPOCHS * math.ceil(len(epoch_rows()) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, (step + 1) / WARMUP_STEPS)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total))))
        ),
    )
    pad = int(tokenizer.pad_token_id or 0)
    started = time.perf_counter()
    for epoch in range(EPOCHS):
        losses = []
        for rows in shuffled_batches(epoch_rows(), BATCH, generator):
            batch = collate(rows, pad)
            loss = token_mean_nll(model(**batch.model_inputs()).logits, batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - started
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}/{EPOCHS}  loss {mean:.3f}  {seconds:.0f} s", file=log, flush=True)
    model.bfloat16()
    return model, tokenizer


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a model folder, `recipe.json` left out."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != RECORDED.name
    }


def main() -> int:
    """Run the recipe; return 1 when `--check` finds other digests than the recorded ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the recorded digests")
    parser.add_argument("--out", type=Path, default=FOLDER, help="model folder to write")
    options = parser.parse_args()
    model, tokenizer = train()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.check else options.out
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        digests = {"data": data_digest(), "files": file_digests(folder)}
    if options.check:
        recorded = json.loads(RECORDED.read_text())
        same = {key: recorded[key] == digests[key] for key in digests}
        print(
            f"data digest {'equal' if same['data'] else 'DIFFERENT'}, "
            f"weights digest {'equal' if same['files'] else 'DIFFERENT'}"
        )
        return 0 if all(same.values()) else 1
    trained_with = {"torch": torch.__version__, "threads": THREADS, "seed": SEED}
    (options.out / RECORDED.name).write_text(
        json.dumps({**digests, **trained_with}, indent=2) + "\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
