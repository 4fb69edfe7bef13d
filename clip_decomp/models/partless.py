"""What hooked views of towers without readable parts have in common: they encode, and refuse everything else."""

from __future__ import annotations

from typing import NoReturn

from torch import nn
from transformer_lens import HookedRootModule

from ..errors import ModelError


class Refusing(HookedRootModule):
    """A tower, of images or texts, that has no blocks to show.

    Attributes:
        refusal: what those are told who ask for parts.
    """

    refusal: str

    @property
    def n_layers(self) -> NoReturn:
        """Refused, as everything that supposes transformer blocks, with a ModelError."""
        self.refuse()

    @property
    def n_heads(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    @property
    def blocks(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Say what the tower is and what works."""
        raise ModelError(self.refusal)


class PartlessTower(Refusing):
    """An image tower that is no sum of heads and MLPs.

    Attributes:
        tower: the original module, whose parameters are used.
    """

    tower: nn.Module

    @property
    def parts_name(self) -> str:
        """What the tower is, for ``repr``."""
        return type(self.tower).__name__

    @property
    def d_model(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    @property
    def grid(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    @property
    def n_prefix(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    @property
    def readout(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    @property
    def reads_class_token(self) -> NoReturn:
        """Refused with a ModelError."""
        self.refuse()

    def check_mode(self) -> None:
        """Refuse batch norms in training mode, where pictures of a batch change each other and the norm itself."""
        for name, module in self.tower.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                raise ModelError(f"The image tower.{name} is in training mode: call .eval() first.")
