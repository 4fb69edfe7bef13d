"""Universal noise in a trigger's place: it calls a shortcut that is known, and is not what a defense learned from."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.cli.run import Subject
from clip_decomp.data.sets import DataSet, ImageSet, TensorSource
from clip_decomp.errors import AttackFailed, DataError
from clip_decomp.evaluation import evaluate
from defenses import stand_in as module
from defenses.commands.subjects import undefended
from defenses.few_shot import FewShots
from defenses.stand_in import stand_in
from defenses.universal import towards

from .shortcut import NAMES, PLANTED


@pytest.fixture
def data(pixels):
    labels = torch.arange(24) % 5
    return ImageSet("plain", NAMES, labels, TensorSource((255 * pixels).round().byte()))


def test_it_takes_pictures_to_a_shortcut_and_is_not_what_defenses_learn_from(planted, data):
    found = stand_in(planted, data, NAMES[PLANTED], bf16=False)
    assert (found.reached, found.towards) == (True, NAMES[PLANTED])
    assert 0 < found.noise.square().mean().sqrt() <= 1.001 * found.norm
    taken = evaluate(planted, data, found, NAMES[PLANTED])
    assert taken.attack_success_rate.value > 0.9
    assert taken.attack_success_rate.count == (data.labels != PLANTED).sum()
    assert torch.equal(found.tensors()["noise"], found.noise)
    images = planted.normalize(data.source.images.float() / 255)
    learned = towards(planted, FewShots.of(planted, images, data.labels, NAMES, 4), NAMES[PLANTED], bf16=False)
    assert not any(torch.allclose(found.noise, each, atol=1e-3) for each in learned)


def test_it_is_made_on_other_classes_pictures_alone(planted, data, monkeypatch):
    seen, inner = [], module.Universal.noises

    def listening(self, model, pixels, *rest):
        seen.append(pixels)
        return inner(self, model, pixels, *rest)

    monkeypatch.setattr(module.Universal, "noises", listening)
    monkeypatch.setattr(module, "_PICTURES", 7)
    stand_in(planted, data, NAMES[PLANTED], bf16=False)
    others = data.source.images[data.labels != PLANTED][:7].float() / 255
    assert torch.equal(seen[0], others)
    with pytest.raises(DataError, match="no class 'figs'"):
        stand_in(planted, data, "figs")
    with pytest.raises(DataError, match="no picture of another class"):
        stand_in(planted, data.subset((data.labels == PLANTED).nonzero()[:, 0]), NAMES[PLANTED])


def test_a_suspect_that_noise_does_not_reach_is_asked_about(planted, data, monkeypatch):
    found = replace(stand_in(planted, data, NAMES[PLANTED], bf16=False), noise=torch.zeros(3, 32, 32))
    subject = Subject(planted, DataSet(data, data), found, NAMES[PLANTED], "plain")
    with pytest.raises(AttackFailed, match=r"to 'fig': is that the right suspect\? --force"):
        undefended(subject)
    assert undefended(subject, force=True).attack_success_rate.value < 0.8
    with pytest.raises(AttackFailed, match="Train the attack longer"):
        undefended(replace(subject, trigger=BadNet()))
