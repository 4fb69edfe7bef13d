"""An open_clip ``ModifiedResNet``, CLIP's own ResNet, as a TransformerLens ``HookedRootModule``.

As with :class:`~clip_decomp.models.hooked_vit.HookedViT`, the weights stay the original model's own parameters, and
with nothing attached the output is the original tower's.

Hook points: ``hook_stem``, ``hook_layer1|layer2|layer3|layer4`` (a stage's output each) and ``hook_attnpool``.

Limits: a ResNet is no sum of heads and MLPs, so it can be evaluated, trained, attacked and defended as a whole, but not
decomposed. Its Grad-CAM is :func:`~clip_decomp.methods.gradcam.gradcam_resnet`.

Example:
    >>> import torch
    >>> from clip_decomp.training.architecture import Architecture, build
    >>> tower = HookedResNet(build(Architecture(layers=(1, 1, 1, 1), width=8, heads=4), seed=0).visual.eval())
    >>> _, cache = tower.run_with_cache(torch.zeros(1, 3, 64, 64))
    >>> tuple(cache["hook_layer4"].shape)
    (1, 256, 2, 2)
"""

from __future__ import annotations

from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from .inputs import check_images
from .partless import PartlessTower
from .recording import Record


class HookedResNet(PartlessTower):
    """Hooked view of an open_clip ``ModifiedResNet``.

    Attributes:
        tower: the original module, whose parameters are used.
    """

    tower: ModifiedResNet
    refusal = (
        "This image tower is a ResNet, which is no sum of heads and MLPs: it has no decomposition, no attention maps "
        "and no ablation of parts. Evaluation, attacks, fine-tuning and gradcam_resnet work; for the others take a "
        "model with a vision transformer."
    )

    def __init__(self, tower: ModifiedResNet):
        super().__init__()
        self.tower = tower
        self.hook_stem, self.hook_attnpool = HookPoint(), HookPoint()
        self.hook_layer1, self.hook_layer2 = HookPoint(), HookPoint()
        self.hook_layer3, self.hook_layer4 = HookPoint(), HookPoint()
        self.setup()

    @property
    def d_embed(self) -> int:
        """Dimensions of the joint space."""
        return self.tower.output_dim

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return self.tower.image_size

    @property
    def stages(self) -> tuple[int, ...]:
        """Residual blocks of each stage."""
        tower = self.tower
        return tuple(len(stage) for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4))

    @property
    def parts_name(self) -> str:
        """Its stages."""
        return f"ResNet stages of {', '.join(map(str, self.stages))} blocks"

    def forward(
        self, images: Float[Tensor, "batch 3 row column"], record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations.

        Raises:
            SettingError: images of another shape than the tower's.
            ModelError: a norm is in training mode, where pictures of a batch change each other and the norm itself; or
                there is a ``record``, which only transformers fill.
        """
        if record is not None:
            self.refuse()
        check_images(images, self.image_size, self.image_size)
        self.check_mode()
        tower = self.tower
        x = self.hook_stem(tower.stem(images.to(tower.conv1.weight.dtype)))
        x = self.hook_layer1(tower.layer1(x))
        x = self.hook_layer2(tower.layer2(x))
        x = self.hook_layer3(tower.layer3(x))
        x = self.hook_layer4(tower.layer4(x))
        return self.hook_attnpool(tower.attnpool(x))
