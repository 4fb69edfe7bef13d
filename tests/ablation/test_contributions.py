"""Contributions of whole data sets, with and without a trigger."""

import torch

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect, pictures


def test_contributions_of_a_data_set_are_those_of_its_pictures(model, toy):
    trigger = BadNet(share=0.25)
    for rule, which in (("exact", None), ("paper", trigger)):
        found = collect(model, toy, which, rule, batch_size=7)
        pixels, labels = toy.load()
        pixels = pixels.float() / 255
        pixels = pixels if which is None else which(pixels, torch.arange(24))
        dec = model.decompose(model.normalize(pixels), convention=rule)
        for part in ("heads", "mlps", "embedding", "bias"):
            torch.testing.assert_close(getattr(found, part), getattr(dec, part).detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, labels)
        assert found.convention.name == rule
        torch.testing.assert_close(found.sum(), dec.sum().detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.means().heads, found.heads.mean(0))
        torch.testing.assert_close(found.means().mlps, found.mlps.mean(0))
        torch.testing.assert_close(found.means().embedding, found.embedding.mean(0))


def test_triggers_know_pictures_by_their_place_in_the_data_whatever_the_batches(toy):
    trigger = BadNet(share=0.25, seed=3)
    whole = torch.cat([pixels for pixels, _, _ in pictures(toy, trigger, 24)])
    assert torch.equal(torch.cat([pixels for pixels, _, _ in pictures(toy, trigger, 5)]), whole)
    part = toy.subset(torch.tensor([4, 9, 21]))
    ((pixels, labels, indices),) = pictures(part, trigger)
    assert torch.equal(pixels, whole[[4, 9, 21]])
    assert indices.tolist() == [4, 9, 21]
    assert labels.tolist() == [0, 1, 1]
