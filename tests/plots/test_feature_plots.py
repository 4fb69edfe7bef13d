from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.embedding import Embedding, EmbeddingNumbers
from clip_decomp.methods.resistivity import Resistivity
from clip_decomp.plots import embedding_map, resistivity_curves, resistivity_panels, setting_panels, sheet

HOSTILE = "<script>alert(1)</script> %{x}"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt; &#37;{x}"
NUMBERS = EmbeddingNumbers(0.84, 0.58, 0.69, 0.21, -0.001, 0.76, 0.77, 0.72, 0.04, 0.01, 0.05, 0.9, 8)


def curve(name="noise", layers=(-1, 0, 1), low=0.5, std=0.05) -> Resistivity:
    token = tuple(np.linspace(1, low, len(layers)).tolist())
    spread = (std,) * len(layers)
    return Resistivity(name, layers, token, spread, tuple(0.9 for _ in layers), spread, low, std, 20)


def embedding(classes=3, pictures=9, target: int | None = 1, numbers=NUMBERS) -> Embedding:
    labels = np.tile(np.arange(pictures) % classes, 2)
    points = np.random.default_rng(0).normal(size=(2 * pictures, 2))
    return Embedding(points, np.arange(2 * pictures) >= pictures, labels, target, 5.0, 0, numbers)


def type_sizes(part: object) -> list[float]:
    if isinstance(part, dict):
        here = [value["size"] for key, value in part.items() if key.endswith("font") and "size" in value]
        return here + [size for value in part.values() for size in type_sizes(value)]
    return [size for value in part for size in type_sizes(value)] if isinstance(part, list | tuple) else []


def check_look(figure: go.Figure) -> None:
    """No width of its own, a legend below, no type under 12 points, heights for desk and phone."""
    assert figure.layout.width is None
    assert figure.layout.template.layout.legend.y == 0
    assert min(type_sizes(figure.to_plotly_json())) >= 12
    meta = figure.layout.meta
    assert meta["narrow"]["height"] >= meta["wide"]["height"] == figure.layout.height


def lines(figure: go.Figure, panel: str) -> dict:
    found = [trace for trace in figure.data if trace.mode == "lines+markers" and (trace.yaxis or "y") == panel]
    return {str(trace.name): trace for trace in found}


def test_curves_hold_both_tokens_bands_and_the_representation():
    results = {"noise": curve(), "badnet": curve("badnet", low=0.2)}
    figure = resistivity_curves(results, "PR")
    token, patches = lines(figure, "y"), lines(figure, "y2")
    np.testing.assert_allclose(token["badnet"].y, [1, 0.6, 0.2])
    np.testing.assert_allclose(token["badnet"].x, [-1, 0, 1])
    np.testing.assert_allclose(patches["badnet"].y, 0.9)
    assert token["noise"].line.dash is None
    assert patches["noise"].line.dash == "dash"
    assert token["noise"].line.color != token["badnet"].line.color
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 4
    np.testing.assert_allclose(bands[0].y, [1, 0.8, 0.55, 0.45, 0.7, 0.95])  # cut off at 1
    output = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.y[0] for trace in output] == [0.5, 0.2]
    assert output[0].x[0] > 1
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["noise", "badnet"]
    assert [note.text for note in figure.layout.annotations] == [
        "Class token; on its own at the right: the representation",
        "Average of the patches",
    ]
    check_look(figure)


def test_curves_have_titled_axes_of_one_scale_that_hold_every_band():
    figure = resistivity_curves({"a": curve(low=0.1, std=0.2), "b": curve(layers=(0, 1))}, "PR")
    first, second = figure.layout.yaxis, figure.layout.yaxis2
    assert first.range == second.range
    assert first.range[0] < 0.1 - 0.2
    assert first.range[1] > 1
    assert first.title.text == "cosine (mean, band 1 std)"
    assert figure.layout.xaxis.title.text == "layer (index)"
    names = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    assert names[-1] == "emb."
    assert "repr." in names.values()


def test_curves_are_in_the_order_of_layers_and_of_one_layer_when_there_is_one():
    found = Resistivity("x", (2, -1), (0.4, 1.0), (0.0, 0.0), (0.5, 0.9), (0.0, 0.0), 0.3, 0.0, 5)
    line = lines(resistivity_curves({"x": found}, "PR"), "y")["x"]
    assert (tuple(line.x), tuple(line.y)) == ((-1, 2), (1.0, 0.4))
    nothing = curve(layers=(1,), low=1.0, std=0.0)
    figure = resistivity_curves({"nothing": nothing}, "PR")
    assert figure.layout.yaxis.range[0] < 0.95


def test_names_and_titles_are_literal():
    figure = resistivity_curves({HOSTILE: curve()}, HOSTILE)
    assert ESCAPED in {trace.name for trace in figure.data}
    assert "<script" not in str(figure.to_json())
    figure = embedding_map(embedding(), (HOSTILE, "b", "c"), HOSTILE)
    assert "<script" not in str(figure.to_json())
    assert f"{ESCAPED}, clean" in {trace.name.replace("<br>", " ") for trace in figure.data}


def test_curves_refuse_what_cannot_be_drawn():
    with pytest.raises(SettingError, match="no perturbation resistivity"):
        resistivity_curves({}, "PR")
    with pytest.raises(DataError, match="bad: not every cosine is finite"):
        resistivity_curves({"bad": curve(low=np.nan)}, "PR")


def test_panels_have_a_line_for_every_model_under_every_perturbation():
    names = ("labels only", "undefended", "RVPT")
    results = {what: {name: curve(low=0.9 - 0.2 * k) for k, name in enumerate(names)} for what in ("noise", "badnet")}
    figure = resistivity_panels(results, "PR")
    assert [note.text for note in figure.layout.annotations] == ["noise", "badnet"]
    for panel in ("y", "y2"):
        assert list(lines(figure, panel)) == list(names)
        np.testing.assert_allclose(lines(figure, panel)["RVPT"].y, [1, 0.75, 0.5])
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == list(names)
    colors = {trace.name: trace.line.color for trace in figure.data if trace.mode == "lines+markers"}
    assert len(set(colors.values())) == 3
    assert figure.layout.yaxis.range[0] < 0.5 - 0.05
    assert "repr." in figure.layout.xaxis2.ticktext
    check_look(figure)


def test_panels_refuse_what_cannot_be_drawn():
    for bad in ({}, {"noise": {}}, {"noise": {"a": curve()}, "badnet": {"b": curve()}}):
        with pytest.raises(SettingError, match="of the same models"):
            resistivity_panels(bad, "PR")
    with pytest.raises(DataError, match="not every cosine is finite"):
        resistivity_panels({"noise": {"bad": curve(low=np.nan)}}, "PR")


def test_a_map_of_few_classes_has_a_color_a_class_and_marks_the_target():
    found = embedding()
    figure = embedding_map(found, ("apple", "pear", "plum"), "Map")
    traces = {trace.name: trace for trace in figure.data}
    assert len(traces) == 6
    for k, name in enumerate(("apple", "pear (target)", "plum")):
        for triggered in (False, True):
            trace = traces[f"{name}, {'triggered' if triggered else 'clean'}"]
            own = found.points[(found.labels == k) & (found.is_triggered == triggered)]
            np.testing.assert_array_equal(np.stack([trace.x, trace.y], 1), own)
            assert trace.marker.symbol == ("star" if triggered else "circle")
            assert set(trace.customdata) == {name.split()[0]}
            assert "%{customdata}" in trace.hovertemplate
    assert traces["apple, clean"].marker.color == traces["apple, triggered"].marker.color
    assert len({trace.marker.color for trace in figure.data}) == 3
    dark = {name for name, trace in traces.items() if trace.marker.line.color != "white"}
    assert dark == {"pear (target), clean", "pear (target), triggered"}
    # Clean points are on top, and the legend is in the order of classes.
    assert [trace.marker.symbol for trace in figure.data] == 3 * ["star"] + 3 * ["circle"]
    ranked = sorted(figure.data, key=lambda trace: trace.legendrank)
    assert [trace.name for trace in ranked][:2] == ["apple, clean", "apple, triggered"]
    check_look(figure)


@pytest.mark.parametrize(("target", "groups"), [(1, 4), (None, 2)])
def test_a_map_of_many_classes_tells_the_target_and_the_triggered_apart(target, groups):
    found = embedding(classes=12, pictures=24, target=target)
    figure = embedding_map(found, [f"class {k}" for k in range(12)], "Map")
    assert len(figure.data) == groups
    assert sum(len(trace.x) for trace in figure.data) == 48
    assert len({trace.marker.color for trace in figure.data}) == groups
    if target is not None:
        own = next(trace for trace in figure.data if trace.name == "clean, class 1 (target)")
        assert set(own.customdata) == {"class 1"}
        assert len(own.x) == 2
    check_look(figure)


def test_the_map_s_numbers_stand_under_it():
    text = embedding_map(embedding(), "abc", "Map").layout.xaxis.title.text
    assert "silhouette 0.84 (map 0.58)" in text
    assert "0.21 clean, 0.00 triggered" in text  # and no -0.00
    assert "0.76 of a random pair" in text
    assert "own 5 %, target 90 %" in text
    assert max(len(line) for line in text.split("<br>")) <= 60
    assert (
        "target"
        not in embedding_map(
            embedding(
                target=None,
                numbers=EmbeddingNumbers(0.8, 0.5, 0.6, 0.2, 0.1, 0.7, 0.7, 0.7, 0.1, None, 0.1, None, 9),
            ),
            "abc",
            "Map",
        ).layout.xaxis.title.text
    )


def test_a_map_refuses_missing_names_and_points():
    with pytest.raises(SettingError, match="2 class names do not cover labels 0 to 2"):
        embedding_map(embedding(), ("apple", "pear"), "Map")
    broken = embedding()
    broken.points[3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        embedding_map(broken, "abc", "Map")


def test_panels_of_settings():
    points = [(1, {"asr": 0.9, "ca": 0.95}), ("all", {"asr": 0.1, "ca": 0.5})]
    figure = setting_panels({"shots": points, HOSTILE: points}, {"asr": 1.0, "ca": 0.97}, "Settings")
    assert [list(trace.x) for trace in figure.data] == [["1", "all"]] * 4
    assert list(figure.data[0].y) == [90.0, 10.0]
    assert [shape.y0 for shape in figure.layout.shapes] == [100.0, 97.0] * 2
    assert "<script>" not in figure.to_json()
    with pytest.raises(SettingError, match="one value or more"):
        setting_panels({"shots": []}, {}, "Settings")


def test_a_sheet_names_its_rows():
    picture = np.zeros((3, 8, 8), np.uint8)
    figure = sheet({"clean": [picture] * 3, HOSTILE: [picture] * 2}, "Triggers")
    assert len(figure.layout.images) == 2
    assert [image.sizex for image in figure.layout.images] == [1, 2 / 3]
    assert figure.layout.annotations[0].text == "clean"
    assert "<script>" not in figure.to_json()
    with pytest.raises(DataError, match="no pictures"):
        sheet({"clean": []}, "Triggers")
