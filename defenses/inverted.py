"""Features of pictures under noise, computed once for each picture and class that it is taken towards.

Where the image tower is frozen and the positive follows from picture and class, so does the noise, whatever the text
prompts have become: CBPT's inner loop need not run again until it aims a picture at another class.

Example:
    >>> asked = []
    >>> def compute(rows, wanted, generator):
    ...     asked.append(rows.tolist())
    ...     return torch.stack([rows, wanted], dim=1).float()
    >>> kept, generator = Inverted(compute), torch.Generator()
    >>> _ = kept(torch.tensor([0, 1]), torch.tensor([5, 5]), generator)
    >>> found = kept(torch.tensor([1, 0]), torch.tensor([5, 6]), generator)
    >>> asked, found.tolist()
    ([[0, 1], [0]], [[1.0, 5.0], [0.0, 6.0]])
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.training.checkpoint import load_labelled, save_labelled

#: Unit features of pictures with some numbers under noise, each taken towards its class.
Compute = Callable[[Int[Tensor, " batch"], Int[Tensor, " batch"], torch.Generator], Float[Tensor, "batch d_embed"]]


class Inverted:
    """What was computed for pairs of picture and class so far.

    A run's checkpoint needs it, too: the same features, computed in a batch of another size, differ in their last bits.

    Args:
        keep: no computes everything anew, for noise that is random.

    Attributes:
        computed: pairs that were not known when they were asked for, counted again each time where nothing is kept.
    """

    def __init__(self, compute: Compute, keep: bool = True):
        self.compute, self.keep, self.computed = compute, keep, 0
        self._known: dict[tuple[int, ...], Tensor] = {}

    def __call__(
        self, rows: Int[Tensor, " batch"], wanted: Int[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch d_embed"]:
        """Features of pictures with these numbers, each taken towards its class."""
        pairs = list(zip(rows.tolist(), wanted.tolist(), strict=True))
        new = [place for place, pair in enumerate(pairs) if pair not in self._known]
        self.computed += len(new)
        if new:
            found = self.compute(rows[new], wanted[new], generator)
            if not self.keep:
                return found
            self._known.update(zip([pairs[place] for place in new], found, strict=True))
        return torch.stack([self._known[pair] for pair in pairs])

    def save(self, file: Path, label: str) -> None:
        """Write what is known; ``label`` says of which run."""
        if self._known:
            pairs, features = torch.tensor(list(self._known)), torch.stack(list(self._known.values())).cpu()
            save_labelled(file, {"pairs": pairs, "features": features}, label)

    def load(self, file: Path, label: str, device: torch.device) -> None:
        """Know what was written by the run of that label, if anything was."""
        tensors = load_labelled(file, label, str(device))
        if tensors is not None:
            pairs = [tuple(pair) for pair in tensors["pairs"].tolist()]
            self._known = dict(zip(pairs, tensors["features"], strict=True))
