"""The vocabulary: what the functions of the core take and return.

Shapes: N sequences, G responses per group, T tokens. A *token array* has the shape of its layout ([N, T] when padded);
a *unit* is what one importance ratio belongs to: a sequence ([N]), one of its K turns ([N, K]) or a token (a token array).
Log-probabilities and log ratios are in nats, lengths in tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any
"""An array of any array-API library. The standard has no static type; shapes are checked at the door instead."""

Namespace: TypeAlias = Any
"""An array-API namespace (`xp`)."""


class TokenScores(NamedTuple):
    """Numbers about the policy's distribution at each token: the result of a backend's `token_scores`.

    >>> import numpy as np
    >>> TokenScores(logp=np.log(np.array([0.25])), entropy=np.log(np.array([4.0]))).entropy.round(4).tolist()
    [1.3863]
    """

    logp: Array
    """[...] log π(token); nats, differentiable."""
    entropy: Array
    """[...] −Σ_v π_v log π_v over the vocabulary; nats."""
    sum_pi_squared: Array | None = None
    """[...] Σ_v π_v² over the vocabulary, from 1/V to 1; None if it was not asked for."""


@dataclass(frozen=True, eq=False)
class PerToken:
    """An advantage for every token, said so: in a packed layout [T] and [N] may have the same length, and nobody guesses.

    >>> import numpy as np
    >>> PerToken(np.array([0.5, -0.5])).values.tolist()
    [0.5, -0.5]
    """

    values: Array
    """Token array."""


class Gain(NamedTuple):
    """Result of a surrogate, elementwise.

    >>> import numpy as np
    >>> from gspo_core import Clip
    >>> Clip(0.2, 0.2)(np, np.zeros(1), np.array([3.0]))
    Gain(value=array([3.]), slope=array([3.]))
    """

    value: Array
    """Contribution to the objective."""
    slope: Array
    """Gradient with respect to the unit's log ratio: ∂value/∂log ratio if the surrogate is `exact`."""


class Gated(NamedTuple):
    """Result of a gate.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> from gspo_core.objectives import TokenClip
    >>> seen = TokenClip(0.4, 0.4)(np.array([[0.1, 0.9]]), np.ones(1), Padded(np.array([[True, True]])), per_token=False)
    >>> seen.d.tolist(), seen.open.tolist()
    ([[0.1, 0.4]], [[True, False]])
    """

    d: Array
    """Token array: log ratios as the ratio sees them."""
    advantage: Array
    """Units: advantages as the surrogate sees them."""
    open: Array
    """Token array: ∂(seen d)/∂(true d). Boolean, True where open; or the derivative itself, in the dtype of d, of a gate that
    closes smoothly. False or 0 in masked slots."""


class Layout(ABC):
    """The tokens of a batch: which slots of a token array hold one of the policy's, and to which sequence it belongs.

    Masks enter a loss here and nowhere else. A layout of your own derives from this class and defines four methods, lengths,
    select, sum and spread, and as properties or as fields of a dataclass

        xp              the namespace of its arrays
        shape           of a token array
        num_sequences   N, empty sequences included
        valid           token array, boolean: slots that hold a token of the policy

    The other members follow from these.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout: Layout = Padded(np.array([[True, True, False], [True, False, False]]))
    >>> layout.sum(np.ones(layout.shape)).tolist(), layout.spread(np.array([3.0, 4.0])).tolist()
    ([2.0, 1.0], [[3.0, 3.0, 0.0], [4.0, 0.0, 0.0]])
    >>> layout.turns is None, layout.local is layout
    (True, True)
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # An inherited shortcut knows nothing of what the subclass changes about `sum` or `select`.
        if "sum_all_slots" not in vars(cls):
            cls.sum_all_slots = Layout.sum_all_slots  # type: ignore[method-assign]  # the base's own method

    if TYPE_CHECKING:  # at run time, a property here would stand in the way of a dataclass's field of the same name

        @property
        def xp(self) -> Namespace:
            """The namespace of the layout's arrays."""

        @property
        def shape(self) -> tuple[int, ...]:
            """Shape of a token array."""

        @property
        def num_sequences(self) -> int:
            """N, empty sequences included."""

        @property
        def valid(self) -> Array:
            """Token array, boolean: slots that hold a token of the policy."""

    @abstractmethod
    def lengths(self) -> Array:
        """[N] |y_i| in tokens, integer."""

    @abstractmethod
    def select(self, x: Array) -> Array:
        """The token array x with masked slots replaced by 0, whatever their content."""

    @abstractmethod
    def sum(self, x: Array) -> Array:
        """[N] sum of the token array x over each sequence's own tokens."""

    @abstractmethod
    def spread(self, x: Array) -> Array:
        """The [N] array x at every token of its sequence, 0 in masked slots."""

    @property
    def turns(self) -> EachTurn | None:
        """The turns of the sequences; None if the layout does not divide them into turns."""
        return None

    @property
    def local(self) -> Layout:
        """This rank's part; the layout itself unless its sequences are spread over ranks."""
        return self

    @property
    def row_weights(self) -> Array | None:
        """[N] weight of each sequence in losses and denominators (`Weighted`); None if all weigh the same."""
        return None

    def non_empty(self) -> Array:
        """[N] boolean: the sequence has a token."""
        return self.lengths() > 0

    def safe_lengths(self, like: Array) -> Array:
        """[N] |y_i| in the dtype of `like`, 1 for an empty sequence, so that one can divide by it."""
        counts = self.xp.astype(self.lengths(), like.dtype)
        return self.xp.where(counts > 0, counts, 1.0)

    def sum_all_slots(self, x: Array) -> Array:
        """`sum` of a token array x that is known to be 0 in masked slots. A layout may leave out the selection."""
        return self.sum(x)

    def sum_selected(self, x: Array) -> Array:
        """`sum` of a loss's own token array. Inside a loss it is 0 in masked slots already, and `Prepared` relies on that."""
        return self.sum(x)


@dataclass(frozen=True, eq=False)
class EachTurn:
    """The turns of a layout, as sequences of their own (`Layout.turns`)."""

    each: Layout
    """The same slots in N · K sequences: turn k of sequence i is number i · K + k."""
    count: int
    """K, a Python number."""


class Ratio(Protocol):
    """How per-token log ratios d become the log ratio of a unit.

    A ratio that belongs to a turn also says `per_turn = True`. It is then given a layout that knows its turns, its units are
    turns unless they are tokens, and a gate in front of it looks at turns where it would look at sequences.

    >>> import numpy as np
    >>> from gspo_core import Padded, Sequence
    >>> ratio: Ratio = Sequence()
    >>> ratio.per_token, ratio.log_ratio(np.array([[0.5, 1.5]]), Padded(np.array([[True, True]]))).tolist()
    (False, [1.0])
    """

    @property
    def per_token(self) -> bool:
        """True if a unit is a token, False if it is a sequence or a turn."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Units: the log ratio, from the token array d = logp − old_logp (0 in masked slots)."""

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Units: how the log ratio moves when the log-probs move by d. Linear in d."""

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: the transpose of `push_forward`, ⟨g, push_forward(d)⟩ = ⟨pull_back(g), d⟩."""


class Gate(Protocol):
    """Filter of log ratios and advantages that may look at whole responses, applied before the ratio.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> from gspo_core.objectives import OffPolicyMask
    >>> gate: Gate = OffPolicyMask(0.5)
    >>> gate(np.array([[-0.9]]), np.array([-1.0]), Padded(np.array([[True]])), False).advantage.tolist()
    [0.0]
    """

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """From the token array d, and advantages per token if `per_token`, else per sequence."""


class LogProbGate(Protocol):
    """A gate that needs the log-probs themselves, and not only their difference: it says `sees_log_probs = True`.

    Both are token arrays, 0 in masked slots; on policy they are the same. They are data: a gate has no derivative with respect
    to them beside `Gated.open`.

    >>> from gspo_core.objectives import TotalVariation
    >>> gate: LogProbGate = TotalVariation(0.2, 0.2)
    >>> gate.sees_log_probs
    True
    """

    @property
    def sees_log_probs(self) -> bool:
        """True: `logp` and `old_logp` are passed."""

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool, *, logp: Array, old_logp: Array) -> Gated:
        """As a `Gate`, with the token arrays of log-probs; nats."""


class Surrogate(Protocol):
    """Quantity maximised for one unit: a function of its log ratio and its advantage.

    >>> import numpy as np
    >>> from gspo_core.objectives import Unclipped
    >>> surrogate: Surrogate = Unclipped()
    >>> surrogate.exact, surrogate(np, np.zeros(1), np.array([2.0])).slope.tolist()
    (True, [2.0])
    """

    @property
    def exact(self) -> bool:
        """True if slope is the derivative of value; False if it is a weight held constant, as in REINFORCE."""

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""


class Reduction(Protocol):
    """Average over units. A reduction that can weigh turns also has `turn_weights(layout, denominator)`, [N, K].

    One for `Weighted` layouts also has `counts(layout)`, [N]: what each sequence adds to `count`, integer or boolean. Its
    other members do not look at the weights of sequences: the loss multiplies by them.

    >>> import numpy as np
    >>> from gspo_core import Padded, TokenMean
    >>> reduction: Reduction = TokenMean()
    >>> reduction.sums_tokens, int(reduction.count(Padded(np.array([[True, True], [True, False]]))))
    (True, 3)
    """

    @property
    def sums_tokens(self) -> bool:
        """True if every token has the same weight, which needs a ratio whose units are tokens."""

    def count(self, layout: Layout) -> Array:
        """[] integer: this batch's own denominator."""

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """Units: non-negative weights, 0 for empty sequences and masked slots."""
