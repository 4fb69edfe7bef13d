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
from defenses.universal import ORDERS, towards

from .shortcut import NAMES, PLANTED


@pytest.fixture
def data(pixels):
    labels = torch.arange(24) % 5
    return ImageSet("plain", NAMES, labels, TensorSource((255 * pixels).round().byte()))


def test_it_takes_pictures_to_a_shortcut(planted, data):
    found = stand_in(planted, data, NAMES[PLANTED], bf16=False)
    assert (found.reached, found.towards) == (True, NAMES[PLANTED])
    assert 0 < found.noise.square().mean().sqrt() <= 1.001 * found.norm
    taken = evaluate(planted, data, found, NAMES[PLANTED])
    assert taken.attack_success_rate.value > 0.9
    assert taken.attack_success_rate.count == (data.labels != PLANTED).sum()
    assert torch.equal(found.tensors()["noise"], found.noise)


def test_it_is_made_on_pictures_of_all_other_classes_in_an_order_that_no_defense_takes(planted, data, monkeypatch):
    seen, inner = [], module.Universal.noises
    ordered = data.subset(data.labels.sort(stable=True).indices)

    def listening(self, model, pixels, *rest):
        seen.append((pixels, self.seed))
        return inner(self, model, pixels, *rest)

    monkeypatch.setattr(module.Universal, "noises", listening)
    monkeypatch.setattr(module, "_PICTURES", 7)
    stand_in(planted, ordered, NAMES[PLANTED], bf16=False)
    ((taken, order),) = seen
    own = [(data.source.images.float() / 255 == each).all((1, 2, 3)).nonzero().item() for each in taken]
    assert len(own) == 7
    assert set(data.labels[own].tolist()) == {0, 1, 2, 4}
    towards(planted, FewShots.of(planted, planted.normalize(taken), torch.arange(7) % 2, NAMES[:2], 3), NAMES[0])
    assert order not in [seed for _, seed in seen[1:]]
    assert len(seen) == 1 + ORDERS
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
