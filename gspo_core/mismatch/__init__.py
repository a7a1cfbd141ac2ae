"""Sampler mismatch: weights that correct for a sampling engine whose log-probs differ from the trainer's, and a report.

`mismatch_report` looks at one batch, and separates the engine's noise from the staleness of the samples. `sampler_metrics`
(in `gspo_core.metrics`) keeps the noise alone, d = old_logp − sampler_logp, in a form that merges over batches and ranks. Both
measure the same quantities:

    quantity                                        mismatch_report                summary of sampler_metrics
    mean of d over tokens                           noise.drift.mean               −sampler_kl_k1_per_token
    KL(π_sampler ‖ π_old) per token, k3             noise.drift.kappa              sampler_kl_k3_per_token
    standard deviation of d over tokens             noise.token_std                sampler_token_std
    design effect of d                              noise.drift.design_effect      sampler_design_effect
    mean of log s over responses                    noise.log_s_mean               sampler_log_s_mean
    its standard deviation                          noise.log_s_std                sampler_log_s_std
    its root mean square                            noise_floor                    sampler_log_s_rms
    mean of π_old/π_sampler − 1 over tokens         mass_gap                       sampler_mass_gap
    its standard error                              mass_gap_error                 sampler_mass_gap_error
    the mass gap is no chance (`mass_gap.py`)       biased                         FindingKind.SAMPLER_BIAS of `diagnose`

`token_std` divides by the number of tokens less one in the report, and by the number of tokens in the summary.
"""

from .bounds import Mask, Reject, Truncate
from .correction import (
    GEO_RS,
    ICEPOP,
    MIS,
    TIS,
    Correction,
    GeometricWeight,
    ProductWeight,
    SamplerWeight,
    TokenWeight,
    sampler_weight,
)
from .disagreement import MeanAbsolute, MeanK3, TokensInside
from .report import MismatchPart, MismatchReport, mismatch_report

__all__ = [
    "GEO_RS",
    "ICEPOP",
    "MIS",
    "TIS",
    "Correction",
    "GeometricWeight",
    "Mask",
    "MeanAbsolute",
    "MeanK3",
    "MismatchPart",
    "MismatchReport",
    "ProductWeight",
    "Reject",
    "SamplerWeight",
    "TokenWeight",
    "TokensInside",
    "Truncate",
    "mismatch_report",
    "sampler_weight",
]
