"""Named settings of the poisoned fine-tuning: those of the papers, and those of the tiny CLIPs.

| name | learning rate | schedule | length | batch | poisoned | source |
| --- | --- | --- | --- | --- | --- | --- |
| ``tiny`` | 6e-4 | linear | 250 steps | 96 | 10 % of pairs seen | measured on the embedded world |
| ``closer-look`` | 1e-5 | cosine | 5 epochs | 128 | 1,500 pairs | He et al., ICML 2025, appendix D |
| ``rvpt`` | 1e-6 | cosine | 5 epochs | 128 | 1,500 pairs | Zhang et al., RVPT, appendix B |

Both papers poison 1,500 of 500,000 pairs of CC3M and fine-tune OpenAI's weights with AdamW. They say neither warm-up
nor weight decay: 50 steps and 0.1 are those of CleanCLIP (Bansal et al., 2023: its paper, its public code), which RVPT
says it follows. AdamW's betas are CLIP's, (0.9, 0.98); CleanCLIP's code has (0.9, 0.999).

Limits: the papers' settings count passes and pairs, so they need a finite data set; on the embedded world's endless
stream say steps and a rate as well.

Example:
    >>> preset("closer-look").changed(steps=100, seed=1).steps
    100
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from ..errors import SettingError, nearest
from .implant import AttackSettings

log = logging.getLogger(__name__)

#: The preset ``tiny``: what was found to take on a clean model of the world, attack by attack.
TINY: dict[str, AttackSettings] = {
    "badnet": AttackSettings(),
    "blended": AttackSettings(),
    "sig": AttackSettings(),
    "issba": AttackSettings(),
    "label-consistent": AttackSettings(rate=0.3),
    "reflection": AttackSettings(),
    "kitty": AttackSettings(rate=0.2),
    "trojvqa": AttackSettings(),
    "badclip": AttackSettings(),
    # Half a pixel of warp: learned after hundreds of thousands of pairs, not thousands (114 minutes of one core).
    "wanet": AttackSettings(rate=0.5, steps=4500, lr=7e-4, batch_size=128, patch_dropout=0.5),
}
#: Settings of triggers that differ from their defaults there.
TRIGGER_SETTINGS: dict[str, dict[str, Any]] = {
    # Adversarial noise is a feature itself: a short fine-tuning learns it and not the patch (43 % at the same rate).
    "label-consistent": {"mode": "interpolated", "mix": 0.75},
}
CLOSER_LOOK = AttackSettings(
    rate=None,
    count=1500,
    steps=None,
    epochs=5,
    batch_size=128,
    lr=1e-5,
    schedule="cosine",
    warmup=50,
    weight_decay=0.1,
    preset="closer-look",
)
PRESETS = {each.preset: each for each in (AttackSettings(), CLOSER_LOOK, replace(CLOSER_LOOK, lr=1e-6, preset="rvpt"))}


def preset(name: str, attack: str | None = None) -> AttackSettings:
    """Settings by name; a warning is logged where they were reported not to take.

    Args:
        attack: of ``tiny``, whose settings differ from attack to attack.

    Raises:
        SettingError: there is no such preset.
    """
    if name not in PRESETS:
        raise SettingError(f"There is no preset {name!r}; did you mean one of {nearest(name, list(PRESETS))}?")
    found = TINY.get(attack or "", PRESETS[name]) if name == "tiny" else PRESETS[name]
    if name == "rvpt":
        # https://github.com/nishadsinghi/CleanCLIP/issues/3: CLIP, 1,500 poisoned of 500,000 pairs.
        log.warning(
            "The learning rate of the preset 'rvpt', %g, was reported not to take: it reached an attack success rate "
            "of 5.7 %% where 1e-05 (the preset 'closer-look') reached 97.7 %%.",
            found.lr,
        )
    return found
