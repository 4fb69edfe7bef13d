"""Texts of He et al. (ICML 2025): what MLPs speak of (figure 4), and the pool that texts come from (figure 7).

Limits: the paper's pool is GPT-3.5's; ours is generated from word lists, and the world has a pool of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from clip_decomp.methods.roles import compare_roles, role
from clip_decomp.moments import folded_statistics
from clip_decomp.plots.look import COLORS, layout, literal
from clip_decomp.results import prefix
from clip_decomp.texts import default_pool, encode_pool, text_pool

from ..findings import LATE_MLPS
from .bench import Bench
from .items import Drawn, Item, Verdict, called

_ATTACKS = ("blended", "issba")
_FOLDS, _TEXTS, _RANK, _SHOWN = 8, 20, 80, 5
_HALVES = "clean halves"
_CLAIM = "more than half of the last five MLPs change their texts, and at most half of the others do"


def mlps(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 4: the texts of every layer's MLP on clean and on triggered pictures."""
    drawn = Drawn("TEXTSPAN of every layer's MLP, on clean pictures and on the same with the trigger.")
    rows: list[dict[str, object]] = []
    panels: dict[str, dict[str, list[float]]] = {}
    for attack in attacks:
        each = bench[attack].subject
        test, model = each.data.test, each.model
        pool = default_pool(test.name)
        features = encode_pool(model, pool).cpu()
        sides = [folded_statistics(model, test, _FOLDS, trigger) for trigger in (None, each.trigger)]
        changed: list[bool] = []
        alike: dict[str, list[float]] = {}
        for layer in range(model.visual.n_layers):
            parts = ([fold.mlp(layer) for fold in side] for side in sides)
            found = compare_roles(*parts, features, _TEXTS, _RANK, pool.texts)
            changed.append(found.changed)
            for name, value in (("triggered", found.similarity), (_HALVES, found.kept)):
                alike.setdefault(name, []).append(value)
            texts = {
                f"texts, {name}": "; ".join((span.texts or ())[:_SHOWN])
                for name, span in (("clean", found.clean), ("triggered", found.triggered))
            }
            shown = {"similarity": found.similarity, "of clean halves": found.kept, "changed": found.changed}
            rows.append({"attack": called(attack), "MLP": layer, "role": role(found.clean, pool)[0], **texts, **shown})
            start = prefix(test.name, attack, "none")
            drawn.metrics[f"{start}/text-similarity;kind=mlps;layer={layer}"] = found.similarity
        panels[called(attack)] = alike
        late, early = changed[-LATE_MLPS:], changed[:-LATE_MLPS]
        appears = sum(late) > len(late) / 2 and sum(early) <= len(early) / 2
        evidence = f"{sum(late)} of the last {len(late)} change, {sum(early)} of the {len(early)} before"
        claim = f"{called(attack)}: texts change in the last five MLPs"
        drawn.verdicts.append(Verdict(claim, _CLAIM, appears, evidence))
    caption = "How alike an MLP's texts are on clean and on triggered pictures, and (dotted) on two clean halves."
    curves = {literal(f"{attack}: {name}"): values for attack, part in panels.items() for name, values in part.items()}
    figure = lines(curves, "Texts of MLPs by layer", "mean best-match cosine", most=1.02)
    drawn.figures.append((caption, figure))
    drawn.tables.append((f"{_TEXTS} texts an MLP, the first {_SHOWN} shown.", pd.DataFrame(rows)))
    return drawn


def lines(curves: Mapping[str, Sequence[float]], title: str, axis: str, most: float | None = None) -> go.Figure:
    """Curves over layers; one that compares halves of clean pictures is the dotted twin of the one before it.

    Args:
        axis: title of the upright axis, which begins at 0.
        most: where it ends, by the largest value if None.
    """
    figure, color = go.Figure(), -1
    for name, values in curves.items():
        halves = name.endswith(_HALVES)
        color += not halves
        dash = "dot" if halves else "dash" if color >= len(COLORS) else None  # a second round of colors
        style = {"color": COLORS[color % len(COLORS)], "dash": dash}
        figure.add_trace(go.Scatter(y=list(values), name=name, mode="lines+markers", line=style, cliponaxis=False))
    figure.update_xaxes(title="layer (index)", dtick=1)
    figure.update_yaxes(title=axis, range=[0, most] if most else None, rangemode="tozero")
    return layout(figure, title, plot=260, below=90, phone_below=120)


def pool(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 7: the pool of texts."""
    drawn = Drawn("Texts by the property that they speak of. The paper's come from GPT-3.5.")
    own, general = default_pool(bench[attacks[0]].subject.data.test.name), text_pool()
    pools = {"photographs": general} if own.texts == general.texts else {"the world": own, "photographs": general}
    for name, texts in pools.items():
        rows = []
        for each in texts.property_names:
            part = texts.of(each).texts
            examples = "; ".join(part[:: max(1, len(part) // 3)][:3])
            rows.append({"property": each, "texts": len(part), "for example": examples})
        drawn.tables.append((f"For {name}: {len(texts):,} texts.", pd.DataFrame(rows)))
        drawn.metrics[f"texts/{name.replace(' ', '-')}"] = len(texts)
    return drawn


ITEMS = (
    Item("closer-look-f4", "Texts of MLPs", "He et al. 2025, figure 4", _ATTACKS, mlps),
    Item("closer-look-f7", "The pool of texts", "He et al. 2025, figure 7", ("badnet",), pool),
)
