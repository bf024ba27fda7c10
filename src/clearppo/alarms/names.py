"""The names of the alarms, and of what a run may do when one begins."""

NAMES = (
    "kl_runaway",
    "entropy_collapse",
    "length_growth",
    "length_shrink",
    "repetition",
    "held_out_apart",
    "critic_useless",
    "clipping_saturated",
    "sampler_mismatch",
    "gradient_spike",
    "reward_constant",
    "reward_jump",
    "never_ending",
)
ACTIONS = ("note", "off", "checkpoint", "raise_kl", "lower_lr", "rollback", "stop")
