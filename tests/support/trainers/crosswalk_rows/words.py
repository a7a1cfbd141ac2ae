"""What several trainers' rows say in the same words."""

PPO = "min(w A, clip(w) A)"
GSPO = "min(s A, clip(s) A)"
DUAL = "min(w A, clip(w) A), for A < 0 at least 3 A"
OVER_TOKENS = "Objective(SequenceToken(), Clip(0.2, 0.2), TokenMean())"
SEQUENCE = {"importance_sampling_level": "sequence"}
