"""The shapes in core's signatures are checked: with jaxtyping's import hook on, a wrong one is refused by name.

In a process of its own, because the hook must come before the first import of clearppo.core.
"""

import os
import subprocess
import sys

SCRIPT = """
import jaxtyping
hook = jaxtyping.install_import_hook("clearppo.core", "beartype.beartype")
import torch
from clearppo.core import advantages, head, kl, logprobs, losses, masks, normalise, rewards

B, T, V, H = 2, 3, 5, 4
x, s = torch.zeros(B, T), torch.zeros(B)
mask, tokens = torch.ones(B, T, dtype=torch.bool), torch.zeros(B, T, dtype=torch.long)
lengths = torch.full((B,), T)
logits, hidden, weight = torch.zeros(B, T, V), torch.zeros(B, T, H), torch.zeros(V, H)

# Each call is legal, whole numbers for real ones included. Then each tensor in turn is spoilt.
calls = [
    (masks.widen, [x]), (masks.kept, [x, mask]), (masks.masked_sum, [x, mask]), (masks.masked_mean, [x, mask]),
    (masks.masked_var, [x, mask, True]), (masks.whitening, [x, mask, True]),
    (masks.whiten, [x, mask, True, False, 1]), (masks.last_index, [mask]),
    (masks.cells, [mask]),
    (logprobs.log_probs, [logits, tokens, 1]), (logprobs.entropy, [logits, 1]), (logprobs.log_softmax, [logits, 1]),
    (logprobs.log_probs_and_entropy, [logits, tokens, 1]),
    (logprobs.require_positive, [1]), (head.rows_at_once, [V, torch.device("cpu")]),
    (head.log_probs_from_hidden, [hidden[0], weight, tokens[0], 1, torch.zeros(V), 2]),
    (head.log_probs_and_entropy_from_hidden, [hidden[0], weight, tokens[0], 1, torch.zeros(V), 2]),
    (kl.kl, [x, x, "k3"]), (kl.full_kl, [logits, logits]), (kl.FixedKL, [1]), (kl.AdaptiveKL, [1, 6, 10000]),
    (rewards.rewards, [s, x, x, mask, 1, "k2"]), (rewards.rewards_from_kl, [s, x, mask, 1]),
    (advantages.returns, [x, mask, 1]), (advantages.gae, [x, x, mask, 1, 1, 1]),
    (advantages.rloo, [s, 2]), (advantages.grpo, [s, 2, 1]),
    (normalise.RunningMoments, [1, 0, 1]), (normalise.RunningMoments().updated, [s]),
    (normalise.RunningScaling, []), (normalise.RunningScaling().updated, [s]), (normalise.RunningScaling().scaled, [s]),
    (normalise.FixedMoments, [0, 1]), (normalise.FixedMoments.of, [s]), (normalise.FixedMoments(0, 1).scaled, [s]),
    (losses.actor_loss, [x, x, x, mask, 6, 1, 1, 3, x]), (losses.actor_clipped, [x, x, x, mask, 1, 1]),
    (losses.importance_weights, [x, x, mask, 2]),
    (losses.probability_loss, [x, x, mask, torch.tensor(6)]), (losses.sft_loss, [x, mask, 6]),
    (losses.critic_loss, [x, x, x, mask, 6, 1]), (losses.critic_clipped, [x, x, x, mask, 1]),
    (losses.preference_loss, [s, s, s, 2]), (losses.best_of_n_loss, [x, tokens[:, 0], 2]),
    (losses.kl_loss, [x, mask, 6]), (losses.kwise_loss, [s, s, tokens[:, 0], s, 1]),
    (losses.centring_loss, [s, s, tokens[:, 0], 1]), (losses.all_token_loss, [x, x, mask, s, 2]),
    (masks.differing_span, [tokens, tokens + 1, lengths, lengths]),
]
for function, arguments in calls:
    function(*arguments)
    for i, argument in enumerate(arguments):
        if not isinstance(argument, torch.Tensor) or argument.dim() == 0:
            continue
        spoilt = [argument.to(torch.complex64)]  # of another kind; and one larger, where there are others to agree with
        if sum(isinstance(a, torch.Tensor) and a.dim() > 0 for a in arguments) > 1:
            spoilt.append(torch.cat([argument, argument[:1]]))
        for bad in spoilt:
            try:
                function(*arguments[:i], bad, *arguments[i + 1 :])
            except jaxtyping.TypeCheckError:
                continue
            raise SystemExit(f"{function.__name__} took {bad.dtype} {tuple(bad.shape)} as argument {i}")

public = {
    f for module in (advantages, head, kl, logprobs, losses, masks, normalise, rewards)
    for name, f in vars(module).items()
    if callable(f) and getattr(f, "__module__", "") == module.__name__ and not name.startswith("_")
}
forgotten = public - {function for function, _ in calls} - {head.by_rows}  # takes any tensors
if forgotten:
    raise SystemExit(f"not called: {forgotten}")
"""


def test_signatures_under_the_import_hook():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
