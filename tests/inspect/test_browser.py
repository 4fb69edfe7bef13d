"""The page's controls in a real headless browser, on a desk and on a phone, without a network."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from clip_decomp.inspect.page import signed

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    return report.save(tmp_path_factory.mktemp("inspect") / "L1H2.html")


@pytest.fixture(params=[(1200, 900), (390, 844)], ids=["desk", "phone"])
def opened(request, browser, path):
    """The page, opened offline; whatever it complains of or asks for is kept, and checked at the end."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(path.as_uri())
    yield SimpleNamespace(page=page, asked=asked, width=width)
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.hacked") is None
    context.close()


def digits(page) -> int:
    return page.evaluate("JSON.parse(document.getElementById('data').textContent).digits")


def shown(page, which: str) -> list[tuple[str, str, str]]:
    """Push, class and picture of each tile, as they can be read."""
    tiles = page.locator(f"#{which} li")
    return [
        (
            tile.locator("b").inner_text(),
            tile.locator("p > span").inner_text(),
            tile.locator("img").get_attribute("src"),
        )
        for tile in tiles.all()
    ]


def expected(report, place: int, side: str, which: str, decimals: int) -> list[tuple[str, str, str]]:
    pictures = getattr(report.views[place].side(side), which)
    return [(signed(each.push, decimals), each.class_name, report.pictures[side, each.number]) for each in pictures]


def check(report, page, place: int, side: str) -> None:
    for which in ("most", "least"):
        assert shown(page, which) == expected(report, place, side, which, digits(page))
    pushes = report.views[place].side(side)
    assert f"{side} pictures" in page.locator("#state").inner_text()
    assert f"mean push over all of them {signed(pushes.mean, digits(page))}," in page.locator("#state").inner_text()


def painted(page) -> float:
    """How opaque the strongest patch of all maps is, 0 to 255; -1 without maps."""
    return page.evaluate(
        """() => Math.max(-1, ...[...document.querySelectorAll("#most canvas, #least canvas")].map(canvas => {
          const rgba = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return Math.max(...rgba.filter((_, k) => k % 4 === 3));
        }))"""
    )


def test_choosing_a_text_shows_its_pictures_and_their_pushes(report, opened):
    page = opened.page
    check(report, page, 0, "clean")
    for place in range(len(report.views)):
        page.select_option("#text", str(place))
        check(report, page, place, "clean")
    options = page.locator("#text option").all_inner_texts()
    assert options == [view.text for view in report.views]


def test_the_switch_between_clean_and_triggered_changes_pictures_and_pushes(report, opened):
    page = opened.page
    page.check("input[value=triggered]")
    check(report, page, 0, "triggered")
    page.select_option("#text", "1")
    check(report, page, 1, "triggered")
    page.check("input[value=clean]")
    check(report, page, 1, "clean")
    assert expected(report, 1, "clean", "most", 3) != expected(report, 1, "triggered", "most", 3)


def test_maps_can_be_hidden_and_made_paler(report, opened):
    page = opened.page
    assert page.locator("#pictures canvas").count() == 6
    assert painted(page) > 200
    assert page.locator("#legend").is_visible()
    page.uncheck("#maps")
    assert page.locator("#pictures canvas").count() == 0
    assert not page.locator("#legend").is_visible()
    assert page.locator("#opacity").is_disabled()
    check(report, page, 0, "clean")
    page.check("#maps")
    page.fill("#opacity", "40")
    for each in ("#most canvas", "#legend .scale div"):
        assert page.locator(each).first.evaluate("element => getComputedStyle(element).opacity") == "0.4"
    assert page.locator("#percent").inner_text() == "40 %"


def test_patches_are_drawn_where_they_are_orange_toward_the_text_and_blue_away(report, opened):
    for which in ("most", "least"):
        tiles = opened.page.locator(f"#{which} canvas").all()
        for shown_picture, canvas in zip(getattr(report.views[0].clean, which), tiles, strict=True):
            drawn = canvas.evaluate(
                """canvas => [canvas.height, canvas.width,
                  ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]"""
            )
            rgba = np.array(drawn[2:]).reshape(*drawn[:2], 4)
            patches = shown_picture.token_map
            assert rgba.shape[:2] == patches.shape
            strong = np.abs(patches) > 0.3 * report.views[0].clean.strongest.max()
            assert ((rgba[..., 0] > rgba[..., 2]) == (patches > 0))[strong].all()
            strongest = np.abs(patches).argmax()
            assert rgba[..., 3].flat[strongest] == rgba[..., 3].max()
            weakest = np.abs(patches).argmin()
            assert rgba[..., 3].flat[weakest] == rgba[..., 3].min()


def test_the_legend_states_the_end_of_the_scale(opened):
    page = opened.page
    ends = []
    for side in ("clean", "triggered"):
        page.check(f"input[value={side}]")
        low, high = (
            float(page.locator(each).inner_text().replace("\N{MINUS SIGN}", "-")) for each in ("#low", "#high")
        )
        sent = page.evaluate(f"JSON.parse(document.getElementById('data').textContent).views[0].{side}.end")
        assert -low == high == pytest.approx(sent, rel=0.01)
        ends.append(page.locator("#high").inner_text())
    page.check("#same")
    shared = page.locator("#high").inner_text()
    page.check("input[value=clean]")
    assert page.locator("#high").inner_text() == shared == max(ends)
    assert "share this scale" in page.locator("#explanation").inner_text()


def test_every_control_works_from_the_keyboard(report, opened):
    page, reached = opened.page, []
    page.locator("#text").focus()
    page.keyboard.press("ArrowDown")
    check(report, page, 1, "clean")
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        if reached[-1] == "clean":
            page.keyboard.press("ArrowRight")
            check(report, page, 1, "triggered")
        if reached[-1] == "opacity":
            page.keyboard.press("ArrowLeft")
            assert page.locator("#percent").inner_text() == "95 %"
        if reached[-1] == "same":
            page.keyboard.press("Space")
            assert page.locator("#same").is_checked()
        if reached[-1] == "maps":
            page.keyboard.press("Space")
            assert page.locator("#pictures canvas").count() == 0
            page.keyboard.press("Space")
            assert page.locator("#pictures canvas").count() == 6
    assert reached == ["clean", "maps", "opacity", "same"]


def test_a_text_in_the_tables_leads_to_its_pictures(report, opened):
    page = opened.page
    button = page.locator("button.text[data-side=triggered]").nth(2)
    button.focus()
    page.keyboard.press("Enter")
    place = int(page.locator("#text").input_value())
    assert report.views[place].text == button.inner_text()
    check(report, page, place, "triggered")
    assert page.evaluate("document.activeElement.id") == "text"


def test_hostile_texts_are_shown_as_they_are(report, opened):
    page = opened.page
    page.select_option("#text", str(len(report.views) - 1))
    assert report.views[-1].text in page.locator("#state").inner_text()
    names = {each[1] for place in range(len(report.views)) for each in expected(report, place, "clean", "most", 3)}
    assert any("onerror" in name for name in names)
    for place in range(len(report.views)):
        page.select_option("#text", str(place))
    assert page.locator("main img").count() == 6


def test_without_an_attack_there_are_no_controls_for_one(plain, browser, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(plain.save(tmp_path / "plain.html").as_uri())
    check(plain, page, 0, "clean")
    assert page.locator("input[name=side], #same, #difference").count() == 0
    assert not re.search("trigger|attack", page.locator("body").inner_text())
    page.close()


def test_the_notebooks_frame_works_alone(report, browser):
    page = browser.new_page(viewport={"width": 800, "height": 900})
    page.set_content(report._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator("#text").select_option("1")
    assert frame.locator("#most b").all_inner_texts() == [
        each[0] for each in expected(report, 1, "clean", "most", digits(page.frames[1]))
    ]
    page.close()
