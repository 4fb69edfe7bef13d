from __future__ import annotations

import base64
import io
import re

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from clip_decomp.ablation.result import AblationResult
from clip_decomp.errors import DataError, SettingError
from clip_decomp.evaluation import rate
from clip_decomp.plots import bars, detection, head_map, pictures, roc, similarity, sweeps

RNG = np.random.default_rng(0)
HOSTILE = "<script>alert(1)</script> & <b>bold</b>"
PLAIN = "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt;<br>and more words"


def sweep(over="heads", scheme="forward", effect="direct", layers=(0, 1, 2), baseline=(0.9, 0.97, 0.05)):
    accuracy, success = ((0.9, 0.6, 0.2, 0.1)[: len(layers)], (0.95, 0.5, 0.0, 0.0)[: len(layers)])
    return AblationResult(over, scheme, effect, layers, accuracy, success, accuracy, baseline, 100, 90)


def named(figure: go.Figure, name: str) -> list:
    found = [trace for trace in figure.data if trace.name == name]
    assert found, f"no trace {name!r}"
    return found


def type_sizes(part: object) -> list[float]:
    """The size of every font in a figure."""
    if isinstance(part, dict):
        here = [value["size"] for key, value in part.items() if key.endswith("font") and "size" in value]
        return here + [size for value in part.values() for size in type_sizes(value)]
    return [size for value in part for size in type_sizes(value)] if isinstance(part, list | tuple) else []


def check_look(figure: go.Figure) -> None:
    """What every figure promises: titled axes, margins that grow, legends below, no type under 12 points, no width."""
    look = figure.layout.template.layout
    assert figure.layout.width is None
    assert look.xaxis.automargin
    assert look.yaxis.automargin
    assert (look.legend.orientation, look.legend.yanchor, look.legend.y) == ("h", "bottom", 0)
    assert min(type_sizes(figure.to_plotly_json())) >= 12


def test_sweeps_hold_the_values_in_percent_one_panel_a_scheme():
    results = [sweep(over, scheme) for over in ("heads", "mlps", "layers") for scheme in ("separate", "forward")]
    figure = sweeps(results, "Sweeps")
    asr, accuracy = named(figure, "ASR: heads"), named(figure, "clean accuracy: MLPs")
    assert len(asr) == 2
    np.testing.assert_allclose(asr[0].y, [95, 50, 0])
    np.testing.assert_allclose(accuracy[0].y, [90, 60, 20])
    assert asr[0].x == (0, 1, 2)
    assert asr[0].line.dash is None
    assert accuracy[0].line.dash == "dash"
    assert [trace.yaxis for trace in asr] == ["y", "y2"]
    assert [title.text for title in figure.layout.annotations] == [
        "Forward: layers 0 to l, direct effect",
        "Layer l alone, direct effect",
    ]
    baseline = named(figure, "ASR: nothing ablated")[0]
    np.testing.assert_allclose(baseline.y, [97, 97])
    assert baseline.line.dash == "dot"


def test_sweeps_name_each_line_once_in_the_legend():
    figure = sweeps([sweep(scheme=scheme) for scheme in ("forward", "backward", "separate")], "Sweeps")
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert len(shown) == len(set(shown)) == 4


def test_sweeps_axes_are_titled_and_run_from_0_to_100():
    figure = sweeps([sweep(), sweep(scheme="backward")], "Sweeps")
    for axis in (figure.layout.yaxis, figure.layout.yaxis2):
        assert axis.range == (0, 100)
        assert axis.title.text == "images (%)"
    assert figure.layout.xaxis2.title.text == "layer l (index)"
    check_look(figure)


def test_sweeps_call_layer_minus_one_the_embedding():
    figure = sweeps([sweep("mlps", layers=(-1, 0, 1, 2))], "Paper's convention")
    axis = figure.layout.xaxis
    assert dict(zip(axis.tickvals, axis.ticktext, strict=True))[-1] == "emb."


@pytest.mark.parametrize(
    ("results", "words"),
    [([], "no sweep"), ([sweep(), sweep(effect="total")], "one effect"), ([sweep(), sweep()], "twice")],
)
def test_sweeps_refuse_what_cannot_be_read(results, words):
    with pytest.raises(SettingError, match=words):
        sweeps(results, "Sweeps")


def test_head_map_in_percent_with_mlps_apart():
    values, mlp = RNG.uniform(0, 0.1, (8, 12)), RNG.uniform(0, 0.1, 8)
    values[6, 1] = 0.62
    figure = head_map(values, "Heads", "ASR lost (%)", percent=True, mlp=mlp)
    heads, column = figure.data
    np.testing.assert_allclose(heads.z, 100 * values)
    np.testing.assert_allclose(column.z[:, 0], 100 * mlp)
    assert column.x[0] > max(heads.x) + 1
    assert heads.customdata[6, 1] == "L6H1"
    assert heads.hovertemplate.startswith("%{customdata}: %{z:.1f} %")
    assert heads.text[6, 1] == "62"
    assert sum(bool(text) for trace in figure.data for text in trace.text.flat) == 5
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.coloraxis.cmax == pytest.approx(62)
    assert figure.layout.coloraxis.colorbar.ticksuffix == " %"
    check_look(figure)


def test_head_map_diverging_is_centered_and_takes_tensors_with_gaps():
    values = torch.zeros(4, 6)
    values[1, 2], values[3, 0], values[0, 0] = -0.5, 0.25, torch.nan
    before = values.clone()
    figure = head_map(values, "Heads", "excess", diverging=True)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.5, 0.5)
    assert figure.data[0].text[1, 2] == "-.5"
    assert [text for text in figure.data[0].text.flat if text] == ["-.5", ".25"]
    assert torch.equal(values.nan_to_num(9), before.nan_to_num(9))


@pytest.mark.parametrize(("shape", "mlp"), [((3,), None), ((0, 4), None), ((3, 4), np.zeros(2))])
def test_head_map_refuses_other_shapes(shape, mlp):
    with pytest.raises(DataError, match="layer"):
        head_map(np.zeros(shape), "Heads", "share", mlp=mlp)


def test_detection_shows_shares_of_each_group_on_common_bins():
    scores = {"clean, all": RNG.normal(0, 1, 500), HOSTILE: RNG.normal(1, 1, 50), "triggered": RNG.normal(4, 1, 300)}
    before = {name: values.copy() for name, values in scores.items()}
    figure = detection(scores, "Suspicion")
    assert len(figure.data) == 3
    edges = figure.data[0].x
    for trace, values in zip(figure.data, scores.values(), strict=True):
        np.testing.assert_array_equal(trace.x, edges)
        np.testing.assert_allclose(trace.y[:-1], 100 * np.histogram(values, edges)[0] / len(values))
        assert trace.y[:-1].sum() == pytest.approx(100)
    assert figure.data[0].name == "clean, all (500 images)"
    assert "<script" not in figure.data[1].name
    assert all(np.array_equal(values, before[name]) for name, values in scores.items())
    check_look(figure)


@pytest.mark.parametrize("scores", [{}, {"clean": []}, {"clean": [0.0, np.nan]}, {"clean": np.zeros((2, 2))}])
def test_detection_refuses_scores_it_cannot_draw(scores):
    with pytest.raises(DataError):
        detection(scores, "Suspicion")


def test_roc_holds_the_curves_and_names_the_auroc():
    false, true = np.array([0, 0.1, 1]), np.array([0, 0.8, 1])
    figure = roc({"Decomp-Det": (false, true, 0.85), "STRIP": (false, false, 0.5)}, "Detectors")
    np.testing.assert_allclose(figure.data[0].x, 100 * false)
    np.testing.assert_allclose(figure.data[0].y, 100 * true)
    assert [trace.name for trace in figure.data] == ["Decomp-Det (AUROC 0.850)", "STRIP (AUROC 0.500)", "chance"]
    assert figure.layout.xaxis.range == figure.layout.yaxis.range == (0, 100)
    check_look(figure)


def test_bars_hold_rates_and_intervals():
    asr, accuracy = rate(90, 100), rate(47, 50)
    rows = [("no defense", {"ASR": asr, "clean accuracy": accuracy}), (HOSTILE, {"ASR": None, "clean accuracy": asr})]
    figure = bars(rows, "Defenses")
    attack = named(figure, "ASR")[0]
    assert (attack.x, attack.y) == ((90.0,), (0,))
    assert attack.x[0] + attack.error_x.array[0] == pytest.approx(100 * asr.high)
    assert attack.x[0] - attack.error_x.arrayminus[0] == pytest.approx(100 * asr.low)
    assert attack.customdata[0][2] == 100
    assert named(figure, "clean accuracy")[0].y == (0, 1)
    assert figure.layout.xaxis.range == (0, 100)
    assert "<script" not in figure.layout.yaxis.ticktext[1]
    check_look(figure)


def test_similarity_has_a_panel_a_head_and_two_layouts():
    groups = {"clean": RNG.uniform(0.5, 1, (40, 12)), "triggered": RNG.uniform(-0.2, 1, (30, 12))}
    figure = similarity(groups, 6, "Similarity")
    assert len(figure.data) == 24
    last = figure.data[-1]
    np.testing.assert_allclose(
        last.y[:-1], 100 * np.histogram(groups["triggered"][:, 11], last.x)[0] / len(groups["triggered"])
    )
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:12] == [f"L6H{head}" for head in range(12)]
    assert titles[12:] == ["similarity to the prototype", "images (%)"]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["clean", "triggered"]
    meta = figure.layout.meta
    assert meta["wide"].keys() == meta["narrow"].keys()
    for screen, columns in (("wide", 3), ("narrow", 2)):
        lefts = {round(value[0], 6) for key, value in meta[screen].items() if re.fullmatch(r"xaxis\d*\.domain", key)}
        assert len(lefts) == columns
    assert meta["narrow"]["height"] > meta["wide"]["height"]
    assert list(figure.layout.xaxis5.domain) == meta["wide"]["xaxis5.domain"]
    check_look(figure)


def test_similarity_refuses_groups_of_other_heads():
    with pytest.raises(DataError, match="same heads"):
        similarity({"clean": np.ones((4, 12)), "triggered": np.ones((4, 8))}, 6, "Similarity")


def test_titles_are_literal_and_broken_into_lines():
    figure = roc({"%{x}": ([0, 1], [0, 1], 0.5)}, f"{HOSTILE} and more words")
    assert figure.layout.title.text == PLAIN
    assert figure.data[0].name == "&#37;{x} (AUROC 0.500)"


def test_pictures_are_one_png_with_every_pixel_doubled():
    grid = [[RNG.integers(0, 255, (3, 8, 6), dtype=np.uint8) for _ in range(3)], [torch.zeros(3, 8, 6).byte()]]
    before = grid[0][1].copy()
    uri = pictures(grid)
    head, data = uri.split(",", 1)
    assert head == "data:image/png;base64"
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert sheet.shape == (2 * 16 + 4, 3 * 12 + 2 * 4, 3)
    np.testing.assert_array_equal(sheet[0:16:2, 16:28:2], before.transpose(1, 2, 0))
    np.testing.assert_array_equal(sheet[1:16:2, 17:28:2], before.transpose(1, 2, 0))
    assert (sheet[20:, :12] == 0).all()
    assert (sheet[20:, 12:] == 255).all()
    np.testing.assert_array_equal(grid[0][1], before)


@pytest.mark.parametrize(
    "grid",
    [[], [[]], [[np.zeros((3, 4, 4))]], [[np.zeros((3, 4, 4), np.uint8), np.zeros((3, 5, 4), np.uint8)]]],
)
def test_pictures_refuse_what_is_no_grid(grid):
    with pytest.raises(DataError, match=r"[Pp]ictures"):
        pictures(grid)
