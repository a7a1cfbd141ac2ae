"""Log-probabilities of the sampled tokens from hidden states and the LM head, without the [T, V] logits."""

from __future__ import annotations

from .head import Array, Head, Options, VocabularyAxis, check_head, first_row, mesh_axes, token_ids, varying
from .two_pass import flat_logp


def token_logp(
    hidden: Array,
    lm_head: Array,
    tokens: Array,
    *,
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
        bias: [V] of the output embedding, if it has one.
        temperature: the sampling temperature.
        soft_cap: the c of Gemma's c · tanh(z / c); None: the logits are not capped.
        vocabulary: inside shard_map, over which mesh axis the rows of `lm_head` are spread.

    Returns: [...] float32 (float64 for float64 inputs), differentiable in reverse mode; gradients add up in float32 and come
    in the parameters' dtypes. float32 arrays are multiplied as they are on every device, whatever
    jax_default_matmul_precision says. Forward mode alone is refused by JAX (a TypeError), forward over reverse is exact.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape, temperature or cap, naming the argument.

    >>> import jax.numpy as jnp
    >>> logp = token_logp(jnp.zeros((2, 5, 8)), jnp.ones((10, 8)), jnp.zeros((2, 5), dtype=jnp.int32))
    >>> logp.shape, bool(jnp.allclose(jnp.exp(logp), 0.1))
    ((2, 5), True)
    """
    head, options = Head(lm_head, bias), Options(temperature, soft_cap, vocabulary)
    check_head(hidden, head, tokens)
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), token_ids(tokens)
    # Gradients are a rank's own inside; the transpose of this adds them up where an array was the same on several ranks.
    axes = mesh_axes(rows, head, flat, first_row(head, options) if vocabulary else ())
    rows, head = varying((rows, head), axes)
    return flat_logp(options, rows, head, flat, None).reshape(tokens.shape)
