"""Log-probabilities of the sampled tokens from hidden states and the LM head, without the [T, V] logits."""

from __future__ import annotations

from jax import lax

from gspo_core.layouts import Layout
from gspo_core.types import TokenScores
from gspo_jax.door import check_flags

from .head import Array, Head, Options, VocabularyAxis, check_head, check_slots, first_row, mesh_axes, token_ids, varying
from .per_token import Found, Wanted
from .two_pass import flat_scores


def token_logp(
    hidden: Array,
    lm_head: Array,
    tokens: Array,
    *,
    layout: Layout | None = None,
    bias: Array | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    vocabulary: VocabularyAxis | None = None,
) -> Array:
    """log π(token) = z[token] − log Σ_v exp z[v] with z = cap(lm_head · hidden + bias) / temperature, in nats.

    Args:
        hidden: [..., H] final hidden states, at the positions that predict `tokens`; any real floating dtype.
        lm_head: [V, H] the output embedding's weight.
        tokens: [...] integer token ids in [0, V). An id outside has log-prob −∞: nothing can be raised under jit.
        layout: which slots hold tokens of the policy. `hidden` is then [*layout.shape, H], `tokens` is a token array, and
            masked slots may hold NaN and ids such as −100. Shapes are static: tokens are sorted, and no loop visits the
            masked ones. Without a layout every slot is a token, and each costs a row of logits.
        bias: [V] of the output embedding, if it has one.
        temperature: the sampling temperature.
        soft_cap: the c of Gemma's c · tanh(z / c); None: the logits are not capped.
        vocabulary: inside shard_map, over which mesh axis the rows of `lm_head` are spread.

    Returns: [...] float32 (float64 for float64 inputs), exactly 0 in masked slots, differentiable in reverse mode; gradients
    are accumulated in float32 and returned in the parameters' dtypes, exactly 0 in masked slots of hidden. Products of float32
    arrays are computed in float32 on every device, whatever jax_default_matmul_precision is. Forward mode alone is refused by
    JAX (a TypeError); forward over reverse (a Hessian-vector product) is exact.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape, temperature or cap, naming the argument.

    >>> import jax.numpy as jnp
    >>> logp = token_logp(jnp.zeros((2, 5, 8)), jnp.ones((10, 8)), jnp.zeros((2, 5), dtype=jnp.int32))
    >>> logp.shape, bool(jnp.allclose(jnp.exp(logp), 0.1))
    ((2, 5), True)
    >>> from gspo_core import Padded
    >>> tokens = jnp.array([[3, 1, -100], [2, -100, -100]])
    >>> jnp.exp(token_logp(jnp.zeros((2, 3, 8)), jnp.ones((4, 8)), tokens, layout=Padded(tokens >= 0))).tolist()
    [[0.25, 0.25, 1.0], [0.25, 1.0, 1.0]]
    """
    head, options = Head(lm_head, bias), Options(temperature, soft_cap, vocabulary)
    return _score(hidden, head, options, tokens, layout, Wanted()).logp


def token_scores(
    hidden: Array,
    lm_head: Array,
    tokens: Array,
    *,
    entropy_gradient: bool = False,
    sum_pi_squared: bool = False,
    layout: Layout | None = None,
    bias: Array | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    vocabulary: VocabularyAxis | None = None,
) -> TokenScores:
    """`token_logp`, and the entropy −Σ_v π_v log π_v of each token's distribution, in the same pass; Σ_v π_v² on request.

    Args:
        hidden, lm_head, tokens, layout, bias, temperature, soft_cap, vocabulary: as for `token_logp`.
        entropy_gradient: whether the entropy is differentiable. If not, it is a constant.

        sum_pi_squared: whether Σ_v π_v² is computed, too, for `optimal_token_advantages`; a constant.

    Returns: `TokenScores`, arrays of the shape and dtype of `token_logp`, exactly 0 in masked slots; None for what was not
    asked for.

    Raises: the errors of `token_logp`.

    >>> import jax.numpy as jnp
    >>> scores = token_scores(jnp.zeros((1, 8)), jnp.ones((4, 8)), jnp.array([3]))
    >>> scores.logp.shape, bool(jnp.allclose(scores.entropy, jnp.log(4.0)))
    ((1,), True)
    """
    check_flags(entropy_gradient=entropy_gradient, sum_pi_squared=sum_pi_squared)
    head, options = Head(lm_head, bias), Options(temperature, soft_cap, vocabulary)
    found = _score(hidden, head, options, tokens, layout, Wanted(True, entropy_gradient, sum_pi_squared))
    entropy = found.entropy if entropy_gradient else lax.stop_gradient(found.entropy)
    return TokenScores(found.logp, entropy, lax.stop_gradient(found.squares))


def _score(hidden: Array, head: Head, options: Options, tokens: Array, layout: Layout | None, wanted: Wanted) -> Found:
    """Arrays of the shape of `tokens`; None for what is not wanted."""
    check_head(hidden, head, tokens)
    live = None
    if layout is not None:
        check_slots(layout, tokens)
        live = layout.valid.reshape(-1)
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), token_ids(tokens)
    # Inside shard_map, gradients are a rank's own; the transpose of `varying` sums those of an array that several ranks share.
    axes = mesh_axes(rows, head, flat, live, first_row(head, options) if options.axis else ())
    rows, head = varying((rows, head), axes)
    scores = flat_scores(options, wanted, rows, head, flat, live)
    return Found(*(None if x is None else x.reshape(tokens.shape) for x in scores))
