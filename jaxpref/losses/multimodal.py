"""Vision-language variants, as losses on given log-probs: only whoever computes those needs an image.

Log-probs are summed over scored tokens (nats), u is a log-ratio to the reference, and l(h) = -log sigmoid(h).

Three methods have a loss of their own. Three more are data methods whose loss is `dpo` as it is, so there is
no function for them: BDHS (rejected responses sampled under masked image attention; described in
arXiv:2407.02477), BPO (rejected responses from a weakened image or with injected errors; arXiv:2403.08730),
and topic-level TPO (responses recombined from the best and worst answer to each topic; arXiv:2411.17265).
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float

from jaxpref.losses.checks import as_floats, positive
from jaxpref.losses.links import logistic
from jaxpref.losses.scores import log_ratio

__all__ = ["margin_sum", "mdpo", "re_align", "v_dpo"]

Batch = Float[Array, " b"]


def margin_sum(margins: Sequence[Batch], *, beta: float) -> Batch:
    """Sum of -log sigmoid(beta * margin) over margins of log-ratios.

    Args:
      margins: differences of log-ratios, nats; at least one.
      beta: above 0 (not checked here).

    Returns:
      [b] nats, 0 or more; log 2 times the number of margins where all are 0.

    Example:
      >>> print(margin_sum([jnp.zeros(1), jnp.log(jnp.array([3.0]))], beta=1.0))  # log 2 + log(4/3)
      [0.9808]
    """
    total = logistic(beta * margins[0])
    for margin in margins[1:]:
        total = total + logistic(beta * margin)
    return total


def mdpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    corrupted_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    reference_corrupted_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Conditional preference optimisation: DPO, plus the chosen response with its image against without.

    l(beta (u_w - u_l)) + l(beta (u_w - u_c)) + l(beta u_w), u_c the log-ratio of the chosen response when the
    image is corrupted; the last term is an anchor that keeps the chosen likelihood from falling. Wang et al.
    2024, arXiv:2406.11839, as released; there the corrupted image is a random crop of 1 to 20 % of the area,
    resized to the whole.

    Args:
      beta: above 0 (released code: 0.1).

    Returns:
      [b] nats, 0 or more; 3 log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])
      >>> w, x = ref + jnp.log(3.0), ref - jnp.log(3.0)  # u_w = u_c = log 3 and u_l = -log 3
      >>> print(losses.mdpo(w, x, w, ref, ref, ref, beta=1.0))  # log(10/9) + log 2 + log(4/3)
      [1.0862]
    """
    positive(beta=beta)
    chosen, rejected, corrupted, ref_w, ref_l, ref_c = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        corrupted_logps=corrupted_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
        reference_corrupted_logps=reference_corrupted_logps,
    )
    first = log_ratio(chosen, ref_w)
    return margin_sum(
        [first - log_ratio(rejected, ref_l), first - log_ratio(corrupted, ref_c), first], beta=beta
    )


def re_align(
    chosen_logps: Batch,
    rejected_logps: Batch,
    retrieved_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    reference_retrieved_logps: Batch,
    *,
    beta: float = 0.1,
) -> Batch:
    """Re-Align: DPO, plus the chosen response with its image against with a retrieved one; `mdpo`, no anchor.

    l(beta (u_w - u_l)) + l(beta (u_w - u_r)), u_r the log-ratio of the chosen response with the retrieved
    image. Xing et al. 2025, arXiv:2502.13146, as released (there the anchor of `mdpo` is commented out).

    Differs from the released trainer, whose log-probs of the rejected response and under the retrieved image
    are of the model's own top alternative instead of the label: here they are of the labels.

    Args:
      beta: above 0 (released code: 0.1).

    Returns:
      [b] nats, 0 or more; 2 log 2 where policy and reference agree.

    Raises:
      ValueError: shapes differ, or beta is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])
      >>> w, x = ref + jnp.log(3.0), ref - jnp.log(3.0)  # u_w = u_r = log 3 and u_l = -log 3
      >>> print(losses.re_align(w, x, w, ref, ref, ref, beta=1.0))  # log(10/9) + log 2
      [0.7985]
    """
    positive(beta=beta)
    chosen, rejected, retrieved, ref_w, ref_l, ref_r = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        retrieved_logps=retrieved_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
        reference_retrieved_logps=reference_retrieved_logps,
    )
    first = log_ratio(chosen, ref_w)
    return margin_sum([first - log_ratio(rejected, ref_l), first - log_ratio(retrieved, ref_r)], beta=beta)


def v_dpo(
    chosen_logps: Batch,
    rejected_logps: Batch,
    reference_chosen_logps: Batch,
    reference_rejected_logps: Batch,
    chosen_image_free_logps: Batch,
    rejected_image_free_logps: Batch,
    *,
    beta: float = 0.1,
    gamma: float = 2.0,
) -> Batch:
    """Vision-guided DPO: DPO on gamma * log pi(y|image) - (gamma - 1) * log pi(y|no image).

    Xie et al. 2024, arXiv:2411.02712. The image-free log-probs (of the current or of the reference policy)
    carry no gradient. gamma = 1 is `dpo`; above 1 it takes away what language alone predicts. The optional
    contrast of images is `dpo` on pairs of images.

    Differs from the released script, which passes gamma = 0: under this formula, which is also that of the
    released trainer, nothing would then be trained, so 0 is refused. The trainer's own default is gamma = 1.

    Args:
      beta: above 0 (released script: 0.1). gamma: strength of guidance, above 0 (the default is ours; the
        paper's has not been verified).

    Returns:
      [b] nats, 0 or more; log 2 where all log-probs agree.

    Raises:
      ValueError: shapes differ, or beta or gamma is not above 0.

    Example:
      >>> ref = jnp.array([-4.0])
      >>> w, x = ref + jnp.log(3.0), ref - jnp.log(3.0)
      >>> loss = partial(losses.v_dpo, w, x, ref, ref, beta=1.0, gamma=3.0)
      >>> print(loss(ref, ref), loss(w, x))  # h = 3 log 9; and 1 log 9, since language alone predicts as much
      [0.0014] [0.1054]
    """
    positive(beta=beta, gamma=gamma)
    chosen, rejected, ref_w, ref_l, free_w, free_l = as_floats(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        reference_chosen_logps=reference_chosen_logps,
        reference_rejected_logps=reference_rejected_logps,
        chosen_image_free_logps=chosen_image_free_logps,
        rejected_image_free_logps=rejected_image_free_logps,
    )
    guided_w, guided_l = (
        gamma * logps - (gamma - 1) * jax.lax.stop_gradient(free)
        for logps, free in ((chosen, free_w), (rejected, free_l))
    )
    return margin_sum([log_ratio(guided_w, ref_w) - log_ratio(guided_l, ref_l)], beta=beta)
