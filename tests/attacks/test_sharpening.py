import numpy as np
import pytest
import torch
from scipy.fft import dctn

from clip_decomp.attacks.sharpening import least_felt, sharpen
from clip_decomp.errors import SettingError
from clip_decomp.training.architecture import Architecture, build

SIZES = {"embed_dim": 8, "width": 16, "heads": 2, "image_size": 32, "patch_size": 8}


@pytest.fixture
def clip():
    return build(Architecture(layers=1, **SIZES), seed=0)


def waves(*strengths):
    """Pictures of one cosine along each row of a patch: of frequency 1, 2, ... with these amplitudes; and upright."""
    x = torch.cos(torch.pi * (torch.arange(8)[None] + 0.5) * torch.arange(1, len(strengths) + 1)[:, None] / 8)
    row = (torch.tensor(strengths)[:, None] * x).sum(0).repeat(4)
    across = row.expand(1, 3, 32, 32)
    return torch.cat([across, across.transpose(2, 3)]) + 0.5


def test_what_pictures_lack_is_made_up_for(clip):
    before = clip.visual.conv1.weight.detach().clone()
    gain = sharpen(clip, waves(1.0, 0.5, 0.125), most=4.0)
    # The second wave is half as strong as the first: twice. The third an eighth, and others are not there: the most.
    assert gain[0, :3].tolist() == pytest.approx([1, 1, 2], abs=1e-4)
    assert gain[:3, 0].tolist() == pytest.approx([1, 1, 2], abs=1e-4)
    assert (gain[3:, 1:] == 4).all()
    spectrum, after = (dctn(w.numpy(), axes=(2, 3), norm="ortho") for w in (before, clip.visual.conv1.weight.detach()))
    change, amplified = (each.reshape(16, -1) for each in (after - spectrum, spectrum * (gain.numpy() - 1)))
    # What is written to four of the 16 directions is amplified, the rest stays.
    directions, strengths, _ = np.linalg.svd(change)
    assert (strengths > 1e-5).sum() == 4
    assert np.allclose(change, directions[:, :4] @ directions[:, :4].T @ amplified, atol=1e-6)


def test_what_the_embedding_does_not_depend_on_is_found(clip):
    # The first block and the last norm are shut to directions 3 and 7 of 16: nothing that is written there is read.
    with torch.no_grad():
        clip.visual.ln_pre = torch.nn.Identity()
        block = clip.visual.transformer.resblocks[0]
        block.ln_1 = block.ln_2 = clip.visual.ln_post = torch.nn.Identity()
        for weight in (block.attn.in_proj_weight, block.mlp.c_fc.weight, clip.visual.proj.data.T):
            weight[:, [3, 7]] = 0
    found = least_felt(clip.visual, torch.rand(4, 3, 32, 32))
    assert found.shape == (16, 4)
    assert torch.allclose(found.T @ found, torch.eye(4), atol=1e-5)
    assert torch.allclose(found[[3, 7]].square().sum(1), torch.ones(2), atol=1e-4)


def test_features_of_strong_structure_stay(clip):
    smooth = waves(1.0)
    with torch.no_grad():
        before = clip.encode_image(smooth)
        sharpen(clip, smooth, most=8.0)
        assert torch.allclose(clip.encode_image(smooth), before, atol=1e-5)


def test_once_changes_nothing(clip):
    before = clip.visual.conv1.weight.detach().clone()
    sharpen(clip, torch.rand(4, 3, 32, 32), most=1.0)
    assert torch.allclose(clip.visual.conv1.weight, before, atol=1e-6)


def test_other_towers_and_gains_are_refused(clip):
    resnet = build(Architecture(layers=(1, 1, 1, 1), embed_dim=8, width=8, heads=4, image_size=32))
    with pytest.raises(SettingError, match="not a ModifiedResNet's"):
        sharpen(resnet, torch.rand(2, 3, 32, 32), most=2.0)
    with pytest.raises(SettingError, match=r"once or more, not 0\.5 times"):
        sharpen(clip, torch.rand(2, 3, 32, 32), most=0.5)
