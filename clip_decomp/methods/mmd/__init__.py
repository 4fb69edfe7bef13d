r"""Maximum mean discrepancy: how far apart are the distributions of a component's clean and triggered contributions?

With a Gaussian kernel :math:`k(x, y) = \exp(-\|x-y\|^2 / 2\sigma^2)` (Gretton et al. 2012),

.. math::  \mathrm{MMD}^2 = \mathbb{E}\,k(x, x') + \mathbb{E}\,k(y, y') - 2\,\mathbb{E}\,k(x, y).

The papers' number (CMMD, Jayasumana et al. 2024; He et al. 2025) is the *biased* estimate of the *squared* MMD with
sigma 10, times 1000. At that sigma the kernel of normalized contributions is nearly 1 everywhere, so everything here
is computed from ``expm1`` in float64: the weights of either estimator sum to zero, and the constant 1 cancels. The
kernel is never held as a whole, only one block of it at a time, and each pair is visited once.

* :func:`mmd`: one number for two sets of vectors.
* :func:`mmd_test`: the number with a permutation p-value.
* :func:`component_mmd`: every head, MLP or layer at once, with a correction for their number.

Limits: MMD depends on the scale of its inputs, so numbers compare only under one sigma and one convention (the papers
divide contributions by the norm of the representation first: ``convention="paper"``). A biased estimate is above zero
even for equal distributions, by about :math:`(1/n + 1/m)(1 - \mathbb{E}\,k)`. A p-value cannot fall below
``1 / (1 + permutations)``.

Example:
    >>> import torch
    >>> noise = torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(mmd(noise[0], noise[1] + 1), 2)
    74.32
    >>> mmd_test(noise[0], noise[1] + 1, estimator="unbiased", permutations=99).p_value
    0.01
    >>> heads = torch.randn(40, 2, 3, 8, generator=torch.Generator().manual_seed(1))  # [image, layer, head, d]
    >>> triggered = heads.flip(0).clone()
    >>> triggered[:, 1, 2] += 1
    >>> found = component_mmd(heads, triggered, permutations=99, correction="max")
    >>> found.to_frame().query("p_adjusted < 0.05").component.tolist()
    ['L1H2']
"""

from __future__ import annotations

from .components import ComponentMMD, component_mmd
from .correction import Correction, adjust
from .kernel import Sigma
from .statistic import Estimator
from .two_samples import MMDTest, mmd, mmd_test

__all__ = [
    "ComponentMMD",
    "Correction",
    "Estimator",
    "MMDTest",
    "Sigma",
    "adjust",
    "component_mmd",
    "mmd",
    "mmd_test",
]
