"""Transfer: adversarial examples of other models, which know nothing of the target."""

from __future__ import annotations

from torch import Tensor

from rbfbench.attacks.gradient import momentum_stepper, walk
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys


def transfer(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 50,
    step_size: float | None = None,
    decay: float = 1.0,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "margin",
) -> Tensor:
    """Momentum ascent on a surrogate, never content with the first flip (Dong et al., arXiv 1710.06081, section 3.4).

    The oracle is a view of the surrogate, or of the mean logits of several. What is kept of each image is the point
    of largest margin on it, since points that barely cross the surrogate's border rarely cross another model's.

    Args:
        oracle: View of the surrogates for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: Length of a step in the norm; 2.5 * eps / steps if None.
        decay: Factor on the accumulated gradient.
        restarts: Independent starts.
        random_start: Start uniformly in the ball; else at x.
        loss: "ce" or "margin".

    Returns:
        The candidate of largest margin on the surrogate for each image (N, C, H, W).
    """
    return walk(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=2.5 * eps / steps if step_size is None else step_size,
        restarts=restarts,
        random_start=random_start,
        loss=loss,
        stepper=momentum_stepper(norm, decay),
    )
