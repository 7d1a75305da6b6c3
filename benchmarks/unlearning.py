"""What does a step of GA+KL cost, against the way of open-unlearning's GradDiff with KL?

    python benchmarks/unlearning.py [STEPS] [--sizes tiny 100M]

Ours: an adapter, the base for the reference, two passes of the policy, logits at learnt tokens
only. Theirs, written out here: a deep copy as reference, three passes of the policy (one for a loss
that is not used), a divergence over prompt and padding with logits of whole batches, AdamW on all
weights. Both take the same batches, on the shipped tiny model and on a Llama of 100M random
parameters. Each runs in a process of its own: median seconds a step (the first is left out), the
process's peak memory, and what of it came after the model was loaded. Ours is measured with the
losses on values' tokens and on whole documents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

_RUN = """
import copy, json, resource, sys, time
import torch
import torch.nn.functional as F
from pytest_unlearn.models.batches import Encoded, collate
from pytest_unlearn.models.loading import load
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.unlearning.step import with_new_adapter
from pytest_unlearn.unlearning.methods import METHODS
from pytest_unlearn.unlearning.step import Step
from transformers import LlamaConfig, LlamaForCausalLM
import peft  # the code of either way is in memory before it is measured

size, way, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.manual_seed(0)
if size == "tiny":
    model = load(resolve("tiny", "--model"), "cpu", "float32").model
    rows, tokens, value = 16, 96, 12
else:
    config = LlamaConfig(vocab_size=32000, hidden_size=640, intermediate_size=1720,
                         num_hidden_layers=12, num_attention_heads=10, num_key_value_heads=10)
    model, rows, tokens, value = LlamaForCausalLM(config), 4, 64, 12
model.eval()

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def batch():
    ids = torch.randint(3, model.config.vocab_size, (rows, tokens)).tolist()
    answer = value if way != "document" else tokens
    return collate([Encoded(row, [-100] * (tokens - answer) + row[-answer:]) for row in ids], 0)

batches = [(batch(), batch()) for _ in range(steps + 1)]

def ours():
    policy, method = with_new_adapter(model, 32), METHODS["ga+kl"]
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    def step(forget, retain):
        return method.loss(Step(policy, forget, retain), method.defaults)
    return optimizer, step

def theirs():
    reference = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    def step(forget, retain):
        forgotten = model(**forget.model_inputs(), labels=forget.labels, use_cache=False).loss
        unused = model(**retain.model_inputs(), labels=retain.labels, use_cache=False).loss
        with torch.no_grad():
            known = reference(**retain.model_inputs(), use_cache=False).logits
        said = model(**retain.model_inputs(), use_cache=False).logits
        width = said.shape[-1]
        divergence = F.kl_div(F.log_softmax(said, -1).view(-1, width),
                              F.log_softmax(known, -1).view(-1, width),
                              reduction="batchmean", log_target=True)
        return -forgotten + divergence
    return optimizer, step

loaded = peak()
optimizer, step = theirs() if way == "peer" else ours()
seconds = []
for forget, retain in batches:
    started = time.perf_counter()
    loss = step(forget, retain)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    seconds.append(time.perf_counter() - started)
total = sum(p.numel() for p in model.parameters())
print(json.dumps([seconds[1:], peak(), loaded, total]))
"""


def measured(size: str, way: str, steps: int) -> tuple[float, float, float]:
    """Return seconds a step, peak bytes of the process, and the bytes above the loaded model."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, size, way, str(steps)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, peak, loaded, _ = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(seconds), peak, peak - loaded


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="?", type=int, default=5, help="timed steps")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "100M"], choices=["tiny", "100M"])
    options = parser.parse_args()
    steps = options.steps
    print(f"{'model':8} {'way':22} {'s/step':>8} {'peak MiB':>9} {'above loaded':>13}")
    names = {
        "peer": "GradDiff-KL, as theirs",
        "values": "ga+kl, values",
        "document": "ga+kl, document",
    }
    for size in options.sizes:
        found = {way: measured(size, way, steps) for way in names}
        for way, (seconds, peak, above) in found.items():
            mib = 2**20
            print(f"{size:8} {names[way]:22} {seconds:8.3f} {peak / mib:9.0f} {above / mib:13.0f}")
        peer = found["peer"]
        for way in ("values", "document"):
            mine = found[way]
            print(
                f"{size:8} {names[way]}: {peer[0] / mine[0]:.2f} times faster, "
                f"{mine[1] / peer[1]:.2f} of the peak memory, {mine[2] / peer[2]:.2f} of what it "
                "takes above the loaded model"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
