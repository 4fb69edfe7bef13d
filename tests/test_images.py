import io
import random
import warnings

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clip_decomp.data import images as module
from clip_decomp.data.images import open_image, to_pil, to_pixels, to_rgb
from clip_decomp.errors import DataError

RED, GREEN = (250, 10, 20), (10, 240, 30)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=20, height=14, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def array(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


# --- what can be opened -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_files_give_their_pixels(kind, tmp_path):
    image = noise()
    data = encoded(image, kind)
    (tmp_path / "file").write_bytes(data)
    for source in (data, tmp_path / "file", str(tmp_path / "file")):
        assert (array(open_image(source)) == array(image)).all()


def test_jpegs_and_webps_are_close():
    image = noise(6, 6).resize((60, 60), Image.Resampling.BICUBIC)
    for kind in ("JPEG", "WEBP"):
        found = array(open_image(encoded(image, kind, quality=95)))
        assert np.abs(found - array(image)).mean() < 6


def test_cmyk_is_converted():
    flat = Image.new("RGB", (16, 16), RED)
    found = array(open_image(encoded(flat.convert("CMYK"), "JPEG", quality=95)))
    assert np.abs(found - RED).max() < 25


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_is_scaled(kind):
    values = np.array([[0, 257, 128 * 257], [65535, 255 * 256, 100]], dtype=np.uint16)
    found = array(open_image(encoded(Image.fromarray(values), kind)))
    assert found[..., 0].tolist() == [[0, 1, 128], [255, 254, 0]]
    assert (found[..., 0] == found[..., 2]).all()


def test_dark_sixteen_bit_gray_stays_dark():
    found = array(open_image(encoded(Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)))))
    assert (found == 1).all()


def test_wide_integers_and_floats_are_taken_for_the_range_that_holds_them():
    def gray(values, dtype):
        return array(open_image(encoded(Image.fromarray(np.array([values], dtype=dtype)), "TIFF")))[0, :, 0].tolist()

    assert gray([0, 100, 255], np.int32) == [0, 100, 255]
    assert gray([0, 65535, 257], np.int32) == [0, 255, 1]
    assert gray([-5, 0, 255], np.int32) == [0, 0, 255]
    assert gray([0.0, 0.5, 1.0], np.float32) == [0, 128, 255]
    assert gray([0.0, 128.0, 255.0], np.float32) == [0, 128, 255]
    assert gray([0.0, float("nan"), 1.0], np.float32) == [0, 0, 255]
    assert gray([0.0, float("inf"), 1.0], np.float32) == [0, 0, 255]


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    assert array(open_image(encoded(image))).tolist() == [[list(RED), [255, 255, 255]]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert array(open_image(encoded(half)))[0, 0].tolist() == pytest.approx([127] * 3, abs=1)
    gray = Image.new("LA", (1, 1), (0, 0))
    assert array(open_image(encoded(gray))).tolist() == [[[255, 255, 255]]]


def test_palettes_are_looked_up_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert array(open_image(encoded(image))).tolist() == [[list(RED), list(GREEN)]]
    assert array(open_image(encoded(image, transparency=1))).tolist() == [[list(RED), [255, 255, 255]]]
    # One alpha value for each color of the palette.
    assert array(open_image(encoded(image, transparency=bytes([0, 255])))).tolist() == [[[255, 255, 255], list(GREEN)]]


def test_a_transparent_color_of_an_rgb_file_lies_over_white():
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    assert array(open_image(encoded(image, transparency=GREEN))).tolist() == [[list(RED), [255, 255, 255]]]


def test_black_and_white_is_converted():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert array(open_image(encoded(image))).tolist() == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(array(open_image(data)) - RED).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    image = noise(20, 14)
    # How a camera stores an upright picture for each orientation: the inverse of what a viewer does.
    store = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = image
    for step in store[orientation]:
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (array(open_image(encoded(stored, exif=exif))) == array(image)).all()


# --- what cannot ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"not an image at all",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
    ],
)
def test_what_is_no_image_is_an_error_that_names_it(content, tmp_path):
    with pytest.raises(DataError, match="row 7: not a readable image"):
        open_image(content, "row 7")
    with pytest.raises(DataError, match="image bytes: not a readable image"):
        open_image(content)
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.png: not a readable image"):
        open_image(tmp_path / "broken.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_errors(kind):
    data = encoded(noise(64, 64), kind)
    for length in (len(data) // 2, len(data) // 4, 20):
        with pytest.raises(DataError, match="not a readable image"):
            open_image(data[:length])


def test_missing_files_and_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: not a readable image \(FileNotFoundError"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="IsADirectoryError"):
        open_image(tmp_path)


def test_gigantic_pictures_are_refused_before_they_are_decoded(monkeypatch):
    data = encoded(noise(40, 30))
    monkeypatch.setattr(module, "MAX_PIXELS", 1199)
    with pytest.raises(DataError, match=r"big: 40 x 30 is too large \(over 1199 pixels\)"):
        open_image(data, "big")
    monkeypatch.setattr(module, "MAX_PIXELS", 1200)
    assert open_image(data).size == (40, 30)


@pytest.mark.parametrize("limit", [1000, 500])
def test_pils_own_limits_are_errors_too(limit, monkeypatch):
    # Above its limit PIL warns, above twice the limit it raises.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"big: Image size .*decompression bomb"):
        open_image(encoded(noise(40, 30)), "big")


def test_a_header_that_claims_a_gigantic_picture_is_refused():
    with pytest.raises(DataError, match=r"too large|decompression bomb"):
        open_image(b"P6 60000 60000 255\n" + b"\x00" * 100)


def test_very_long_strips_do_not_fill_the_memory():
    # Resized whole, the second would take 64 x 1,920,000 pixels.
    for size in ((1, 300), (30_000, 1)):
        found = to_pixels(Image.new("RGB", size, RED), 64)
        assert found.shape == (3, 64, 64)
        assert (found.float().mean((1, 2)) == torch.tensor(RED)).all()


def test_damaged_files_give_a_picture_or_a_data_error_and_no_warning():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    image = noise(24, 18)
    samples = [
        encoded(image, "JPEG", exif=exif),
        encoded(image, "PNG", exif=exif),
        encoded(image, "TIFF", exif=exif),
        encoded(image, "WEBP", exif=exif),
        encoded(image.convert("P"), "GIF"),
        encoded(image.convert("P"), "PNG", transparency=3),
        encoded(Image.fromarray(np.random.default_rng(0).random((9, 9)).astype(np.float32)), "TIFF"),
        encoded(image, "BMP"),
    ]
    rng = random.Random(0)
    outcomes = {"picture": 0, "error": 0}
    for data in samples:
        for _ in range(60):
            damaged = bytearray(data if rng.random() < 0.7 else data[: rng.randrange(1, len(data))])
            for _ in range(rng.randrange(1, 6)):
                damaged[rng.randrange(min(len(damaged), rng.choice([40, 150, len(damaged)])))] = rng.randrange(256)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", DeprecationWarning)  # inside PIL
                try:
                    assert to_pixels(open_image(bytes(damaged)), 16).shape == (3, 16, 16)
                    outcomes["picture"] += 1
                except DataError:
                    outcomes["error"] += 1
    assert min(outcomes.values()) > 50


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 52), (33, 64), (57, 31), (20, 91), (200, 25), (32, 32), (31, 31), (301, 77)])
def test_pixels_are_those_of_open_clips_preprocessing(size):
    image = noise(*size)
    theirs = open_clip.image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))(image)
    assert torch.equal(to_pixels(image, 32), (theirs * 255).round().to(torch.uint8))


def test_pictures_of_the_right_size_are_not_touched():
    image = noise(24, 24)
    found = to_pixels(image, 24)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert (found.permute(1, 2, 0).numpy() == array(image)).all()
    assert (array(to_pil(found)) == array(image)).all()


def test_the_models_preprocessing_treats_every_mode_alike(model):
    image = noise(50, 40)
    expected = model.normalize(to_pixels(image, 32).float() / 255)
    torch.testing.assert_close(model.preprocess(image), expected)
    see_through = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    torch.testing.assert_close(model.preprocess(see_through), model.normalize(torch.ones(3, 32, 32)))
    deep = Image.fromarray(np.full((32, 32), 65535, dtype=np.uint16))
    torch.testing.assert_close(model.preprocess(deep), model.normalize(torch.ones(3, 32, 32)))


def test_converting_does_not_change_the_original():
    image = Image.new("RGBA", (4, 4), (1, 2, 3, 0))
    before = image.copy()
    to_rgb(image)
    to_pixels(to_rgb(image), 2)
    assert image.tobytes() == before.tobytes()
