"""A row of each kind as JSON text, as the first version wrote it: the formats are frozen."""

from __future__ import annotations

# As workers send them, and as saved runs hold them.
ROWS = {
    "probe": (
        '{"base": {"how": "exact", "kind": "email", "label": "direct", "owner": "forget-0", '
        '"relation": "own", "split": "forget"}, "base_exact": {"exact_memorization": 1.0, '
        '"exposure": {"bits": 10.0, "exact": false, "rank": 1, "size": 1024}, '
        '"gradient_norm": 7.5, "greedy": true, "log_probability": -0.25, "loss": 0.05, '
        '"margin": 0.5, "min_k": [-0.2, -0.125], "min_k_plus_plus": [], "n_for_half": 1.0, '
        '"strength": 0.8, "tokens": 5, "zlib_ratio": 0.002}, "base_sampled": [3, 8], '
        '"carrier": "json", "cluster": "", "family": "direct", "id": "direct-forget-000", '
        '"kind": "email", "knowledge": "name", "owner": "forget-0", "planted": "sql", '
        '"rehearsed": false, "request": "", "retrained": {"label": "placeholder"}, '
        '"retrained_exact": {"exact_memorization": 1.0, "exposure": null, "greedy": false, '
        '"log_probability": null, "loss": 0.05, "margin": 0.25, "min_k": [-0.2, -0.125], '
        '"min_k_plus_plus": [], "n_for_half": null, "strength": 0.8, "tokens": 5, '
        '"zlib_ratio": 0.002}, "row": "ProbeRow", "split": "forget", '
        '"unlearned": {"label": "clean"}, "unlearned_exact": {"exact_memorization": 1.0, '
        '"exposure": null, "greedy": false, "log_probability": null, "loss": 0.05, "margin": 0.5, '
        '"min_k": [-0.2, -0.125], "min_k_plus_plus": [], "n_for_half": null, "strength": 0.8, '
        '"tokens": 5, "zlib_ratio": 0.002}, "unlearned_sampled": [0, 8]}'
    ),
    "task": (
        '{"base": "passed", "base_degenerate": null, "base_loss": [3.5, 7], "base_parses": 1.0, '
        '"base_samples": ["passed", "failed"], "cluster": "", "group": "bundled", "id": "sum-w1", '
        '"ks": [1, 2], "rehearsed": false, "retrained": null, "retrained_parses": null, '
        '"retrained_samples": [], "row": "TaskRow", "run_again": 0, "task": "sum", '
        '"unlearned": "failed", "unlearned_degenerate": null, "unlearned_loss": null, '
        '"unlearned_parses": null, "unlearned_samples": ["failed", "failed"]}'
    ),
    "attack": (
        '{"attack": "int8", "base": {"label": "direct"}, "base_exact": {"exact_memorization": 1.0, '
        '"greedy": true, "log_probability": -0.25}, "base_sampled": null, "carrier": "json", '
        '"cluster": "", "family": "direct", "id": "int8/direct-forget-000", "kind": "email", '
        '"knowledge": "name", "owner": "forget-0", "planted": "", "rehearsed": false, '
        '"request": "", "retrained": null, "retrained_exact": null, "row": "AttackRow", '
        '"scores": {"base": -1.0, "unlearned": 0.5}, "split": "forget", '
        '"unlearned": {"label": "clean"}, "unlearned_exact": {"exact_memorization": 0.0, '
        '"greedy": false, "log_probability": null}, "unlearned_sampled": null}'
    ),
}
# The lines of `--unlearn-report=jsonl` for the same rows.
LINES = {
    "probe": (
        '{"record": "case", "id": "direct-forget-000", "status": "measured", "split": "forget", '
        '"family": "direct", "kind": "email", "carrier": "json", "owner": "forget-0", '
        '"base": {"how": "exact", "kind": "email", "label": "direct", "owner": "forget-0", '
        '"relation": "own", "split": "forget"}, "unlearned": {"label": "clean"}, "planted": "sql", '
        '"knowledge": "name", "base_exact": {"exact_memorization": 1.0, "exposure": {"bits": 10.0, '
        '"exact": false, "rank": 1, "size": 1024}, "gradient_norm": 7.5, "greedy": true, '
        '"log_probability": -0.25, "loss": 0.05, "margin": 0.5, "min_k": [-0.2, -0.125], '
        '"min_k_plus_plus": [], "n_for_half": 1.0, "strength": 0.8, "tokens": 5, '
        '"zlib_ratio": 0.002}, "unlearned_exact": {"exact_memorization": 1.0, "exposure": null, '
        '"greedy": false, "log_probability": null, "loss": 0.05, "margin": 0.5, "min_k": [-0.2, '
        '-0.125], "min_k_plus_plus": [], "n_for_half": null, "strength": 0.8, "tokens": 5, '
        '"zlib_ratio": 0.002}, "rehearsed": false, "cluster": "", "base_sampled": [3, 8], '
        '"unlearned_sampled": [0, 8], "request": "", "retrained": {"label": "placeholder"}, '
        '"retrained_exact": {"exact_memorization": 1.0, "exposure": null, "greedy": false, '
        '"log_probability": null, "loss": 0.05, "margin": 0.25, "min_k": [-0.2, -0.125], '
        '"min_k_plus_plus": [], "n_for_half": null, "strength": 0.8, "tokens": 5, '
        '"zlib_ratio": 0.002}, "type": "probe", "shown": "<email 1>"}'
    ),
    "task": (
        '{"record": "case", "id": "sum-w1", "status": "measured", "rehearsed": false, '
        '"cluster": "", "task": "sum", "base": "passed", "unlearned": "failed", '
        '"base_samples": ["passed", "failed"], "unlearned_samples": ["failed", "failed"], '
        '"ks": [1, 2], "group": "bundled", "base_parses": 1.0, "unlearned_parses": null, '
        '"base_degenerate": null, "unlearned_degenerate": null, "base_loss": [3.5, 7], '
        '"unlearned_loss": null, "run_again": 0, "retrained": null, "retrained_samples": [], '
        '"retrained_parses": null, "type": "task"}'
    ),
    "attack": (
        '{"record": "case", "id": "int8/direct-forget-000", "status": "measured", '
        '"split": "forget", "attack": "int8", "kind": "email", "carrier": "json", '
        '"owner": "forget-0", "base": {"label": "direct"}, "unlearned": {"label": "clean"}, '
        '"family": "direct", "planted": "", "knowledge": "name", '
        '"base_exact": {"log_probability": -0.25, "greedy": true, "exact_memorization": 1.0}, '
        '"unlearned_exact": {"log_probability": null, "greedy": false, "exact_memorization": 0.0}, '
        '"rehearsed": false, "cluster": "", "base_sampled": null, "unlearned_sampled": null, '
        '"request": "", "retrained": null, "retrained_exact": null, "scores": {"base": -1.0, '
        '"unlearned": 0.5}, "type": "attack", "shown": "<email 1>"}'
    ),
}
