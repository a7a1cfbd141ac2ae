"""Skip responses without an advantage before the model's forward pass, and keep the loss exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._lib.array import is_integer, is_real, namespace, shape_of, to_numpy
from ._lib.checks import check_flag, on_host
from ._lib.validation import check_layout
from .advantages.groups import group_advantages
from .advantages.normalisers import Normaliser, ZScore
from .objectives.loss import Objective
from .types import Array, Layout

__all__ = ["Plan", "PlannedStep", "plan"]

_POPULATION = ZScore()


class PlannedStep(NamedTuple):
    """Rows and denominator of one optimizer step.

    >>> from gspo_core import GSPO, Padded
    >>> Plan(np.array([0.0, 2.0])).step(GSPO, Padded(np.array([[True], [True]])))
    PlannedStep(rows=array([1]), denominator=array(2))
    """

    rows: Any
    """[M] int64, NumPy: the numbers of the responses to run, in the order in which they were asked for; may be empty."""
    denominator: Array
    """[] the objective's count over all responses of the step, those left out included: an integer, 1 in place of 0; with a
    `Weighted` layout a sum of weights."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The advantages of a batch, and which of its responses a step needs; made by `plan`.

    Advantages from elsewhere, such as `decoupled_advantages(...)`, become a plan as `Plan(advantage)`.

    Raises TypeError if the advantage is no array of real numbers or the flag none, ValueError if it has not one axis.

    >>> import numpy as np
    >>> Plan(np.array([0.5, 0.0, -0.5])).keep.tolist()
    [True, False, True]
    """

    advantage: Array
    """[N] one advantage per response."""
    loss_has_other_terms: bool = False
    """True: the loss has a term that does not know the advantage (KL, entropy, MoE balancing), and nothing is dropped."""

    def __post_init__(self) -> None:
        check_flag("loss_has_other_terms", self.loss_has_other_terms)
        xp = namespace(advantage=self.advantage)
        if not (is_real(xp, self.advantage) or is_integer(xp, self.advantage)):
            raise TypeError(f"advantage: expected real numbers, got dtype {self.advantage.dtype}")
        if len(shape_of(self.advantage)) != 1:
            raise ValueError(f"advantage: expected shape [N], one per response, got {list(shape_of(self.advantage))}")

    @property
    def keep(self) -> Any:
        """[N] boolean, NumPy: the response must be run. A NaN advantage is kept, so that it shows."""
        values = to_numpy(self.advantage)
        return np.ones(values.shape, dtype=bool) if self.loss_has_other_terms else values != 0

    def step(self, objective: Objective, layout: Layout, rows: Any = None) -> PlannedStep:
        """Rows to run for one optimizer step over `rows`, and the denominator of its loss.

        Args:
            objective: gives the count: non-empty sequences, or tokens.
            layout: where the tokens of all the step's responses stand, those that will be dropped included.
            rows: [M] integers, the numbers of the step's responses in the batch, in the layout's order; None means all.

        Returns: `PlannedStep`. Run the model on `rows` only, in as many micro-batches as you like, and give every
        one of them the denominator. If no row is left the gradient is zero: take the optimizer step with zeros where it would
        have been taken (momentum moves on), without running the model.

        Raises: TypeError for a wrong kind, ValueError if rows have not one axis, are not as many as the layout's sequences, or
        are outside the batch.
        """
        if not isinstance(objective, Objective):
            raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
        check_layout(layout)
        keep = self.keep
        chosen = np.arange(len(keep)) if rows is None else on_host("rows", rows)
        if chosen.ndim != 1:
            raise ValueError(f"rows: expected shape [M], got {list(chosen.shape)}")
        if chosen.size and chosen.dtype.kind not in "iu":
            raise TypeError(f"rows: expected integers, got dtype {chosen.dtype}")
        if chosen.shape != (layout.num_sequences,):
            raise ValueError(
                f"layout: expected the sequences of all {len(chosen)} rows of the step, those without an advantage included, "
                f"got {layout.num_sequences} for rows of shape {list(chosen.shape)}"
            )
        chosen = chosen.astype(np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(keep)):
            raise ValueError(f"rows: expected numbers from 0 to {len(keep) - 1}, got {chosen.min()} to {chosen.max()}")
        run = keep[chosen]
        if layout.row_weights is not None:  # a response of weight 0 is not there, whatever the loss's other terms
            run = run & (to_numpy(layout.row_weights) != 0)
        count = objective.count(layout)
        return PlannedStep(chosen[run], layout.xp.where(count > 0, count, 1))


def plan(
    rewards: Any,
    group_ids: Any,
    normaliser: Normaliser = _POPULATION,
    *,
    valid: Any = None,
    loss_has_other_terms: bool = False,
) -> Plan:
    """Which responses a training step needs, known from the rewards alone, before the model runs.

    A response without an advantage adds nothing to J = (1/D) Σ_i gain(s_i, A_i): with A_i = 0 gain and slope are 0 for every
    objective here. It still counts in D. So the model need not see it, neither for old nor for current log-probs, if the
    loss of the others is divided by the D of all. Groups whose rewards are all equal are the usual case.

    This is exact as long as nothing else links responses to the step: say `loss_has_other_terms=True` if the loss has a KL
    term (`kl_penalty`), an entropy bonus or an MoE balancing loss, since these need every sequence. The same goes for a
    model in which one sequence changes another's log-probs (experts of limited capacity, batch normalisation).

    Args:
        rewards, group_ids, normaliser, valid: see `group_advantages`. Give it whole groups, and cut the batch afterwards.
        loss_has_other_terms: nothing is dropped.

    Returns: `Plan`, on the host: rewards are data, and how much is run depends on their values.

    Raises: as `group_advantages`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded
    >>> from gspo_core.objectives import DAPO
    >>> planned = plan([1.0, 0.0, 0.7, 0.7], [5, 5, 9, 9])
    >>> mask = np.array([[True, True], [True, False], [True, True], [True, True]])
    >>> step = planned.step(GSPO, Padded(mask))
    >>> step.rows.tolist(), int(step.denominator), int(planned.step(DAPO, Padded(mask)).denominator)
    ([0, 1], 4, 7)
    """
    return Plan(group_advantages(rewards, group_ids, normaliser, valid=valid), loss_has_other_terms)
