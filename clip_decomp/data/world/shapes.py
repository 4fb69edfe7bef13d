"""Silhouettes of the embedded world's classes, and their signed distance fields.

Each class is a short list of drawing steps on the square [-1, 1] x [-1, 1] (x to the right, y down).
Steps add ink; a step whose name starts with ``cut_`` removes it.

==========  =====================================================
``disc``    ``(x, y, r)``
``oval``    ``(x, y, rx, ry)``
``box``     ``(x0, y0, x1, y1)``
``poly``    ``((x, y), (x, y), ...)``
``line``    ``(width, (x, y), (x, y), ...)``
``ring``    ``(x, y, r, width)``
``wave``    ``(width, amplitude, periods)``, a sine along x
``star``    ``(x, y, outer, inner, points)``
``rays``    ``(x, y, r0, r1, count, width)``
==========  =====================================================

Example:
    >>> field = signed_distances(("banana",))
    >>> tuple(field.shape), bool((field < 0).any())
    ((1, 96, 96), True)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt
from torch import Tensor

#: The atlas covers [-EXTENT, EXTENT] so that a silhouette never touches its border.
EXTENT = 1.25
RESOLUTION = 96
_SUPERSAMPLE = 4

# fmt: off
SILHOUETTES: dict[str, tuple[tuple, ...]] = {
    # main set
    "banana": (("disc", 0, -.35, .95), ("cut_disc", .1, -.75, .98), ("box", -.98, -.38, -.78, -.1)),
    "apple": (("disc", -.25, .15, .62), ("disc", .25, .15, .62), ("line", .12, (0, -.3), (.12, -.8)), ("oval", .38, -.68, .3, .14)),
    "pear": (("disc", 0, .35, .6), ("disc", 0, -.3, .36), ("poly", (-.36, -.3), (.36, -.3), (.58, .25), (-.58, .25)), ("line", .1, (0, -.6), (.1, -.95))),
    "cherry": (("disc", -.5, .5, .38), ("disc", .5, .5, .38), ("line", .09, (-.5, .3), (.1, -.8), (.5, .3)), ("oval", .4, -.75, .35, .15)),
    "carrot": (("poly", (-.4, -.35), (.4, -.35), (0, .98)), ("line", .14, (0, -.3), (0, -.95)), ("line", .14, (-.05, -.3), (-.45, -.85)), ("line", .14, (.05, -.3), (.45, -.85))),
    "mushroom": (("disc", 0, -.05, .8), ("cut_box", -1, .05, 1, 1), ("box", -.25, 0, .25, .85)),
    "leaf": (("disc", -.45, 0, .9), ("keep_disc", .45, 0, .9), ("line", .1, (0, .5), (0, 1)), ("cut_line", .07, (0, -.5), (0, .6))),
    "fir tree": (("poly", (0, -.98), (.45, -.35), (-.45, -.35)), ("poly", (0, -.6), (.62, .15), (-.62, .15)), ("poly", (0, -.2), (.8, .65), (-.8, .65)), ("box", -.13, .6, .13, .95)),
    "flower": (("disc", 0, -.6, .33), ("disc", .57, -.19, .33), ("disc", .35, .48, .33), ("disc", -.35, .48, .33), ("disc", -.57, -.19, .33), ("disc", 0, 0, .4), ("cut_disc", 0, 0, .2)),
    "cactus": (("oval", 0, 0, .24, .95), ("line", .24, (0, .25), (.62, .25), (.62, -.35)), ("line", .24, (0, .45), (-.62, .45), (-.62, -.1))),
    "fish": (("oval", -.2, 0, .7, .42), ("poly", (.3, 0), (.95, -.5), (.95, .5)), ("cut_disc", -.55, -.1, .09)),
    "butterfly": (("oval", -.5, -.4, .42, .45), ("oval", .5, -.4, .42, .45), ("oval", -.38, .45, .32, .4), ("oval", .38, .45, .32, .4), ("oval", 0, 0, .1, .8)),
    "cat": (("disc", 0, .15, .68), ("poly", (-.68, .05), (-.66, -.85), (-.1, -.45)), ("poly", (.68, .05), (.66, -.85), (.1, -.45)), ("cut_disc", -.25, .05, .1), ("cut_disc", .25, .05, .1)),
    "rabbit": (("disc", 0, .45, .5), ("oval", -.28, -.4, .17, .6), ("oval", .28, -.4, .17, .6)),
    "snake": (("wave", .24, .5, 1.5), ("disc", .85, -.02, .18)),
    "spider": (("disc", 0, 0, .4), ("line", .09, (-.9, -.75), (-.5, -.55), (0, 0), (.5, -.55), (.9, -.75)), ("line", .09, (-.95, -.1), (-.5, -.25), (0, 0), (.5, -.25), (.95, -.1)), ("line", .09, (-.95, .45), (-.5, .2), (0, 0), (.5, .2), (.95, .45)), ("line", .09, (-.7, .95), (-.4, .5), (0, 0), (.4, .5), (.7, .95))),
    "star": (("star", 0, .05, 1, .4, 5),),
    "sun": (("disc", 0, 0, .48), ("rays", 0, 0, .6, .98, 10, .13)),
    "cloud": (("disc", -.5, .15, .38), ("disc", 0, -.12, .5), ("disc", .5, .12, .4), ("box", -.5, .15, .5, .53)),
    "lightning": (("poly", (.15, -.98), (-.55, .12), (-.05, .12), (-.25, .98), (.55, -.2), (.05, -.2), (.45, -.98)),),
    "heart": (("disc", -.4, -.3, .44), ("disc", .4, -.3, .44), ("poly", (-.8, -.12), (.8, -.12), (0, .9))),
    "snowflake": (("rays", 0, 0, 0, .95, 6, .13), ("ring", 0, 0, .5, .12)),
    "umbrella": (("disc", 0, 0, .9), ("cut_box", -1, 0, 1, 1), ("line", .1, (0, -.1), (0, .75), (.15, .88), (.3, .75))),
    "key": (("ring", -.55, 0, .38, .2), ("box", -.25, -.09, .95, .09), ("box", .75, 0, .93, .38), ("box", .45, 0, .6, .3)),
    "anchor": (("disc", 0, .1, .82), ("cut_disc", 0, 0, .72), ("cut_box", -1, -1, 1, .3), ("ring", 0, -.75, .2, .1), ("box", -.08, -.6, .08, .9), ("box", -.4, -.42, .4, -.26)),
    "house": (("poly", (0, -.95), (.9, -.1), (-.9, -.1)), ("box", -.65, -.15, .65, .85), ("cut_box", -.16, .3, .16, .86)),
    # first transfer set: things people use
    "hammer": (("box", -.65, -.85, .65, -.4), ("box", -.12, -.5, .12, .95)),
    "axe": (("box", -.1, -.95, .1, .95), ("poly", (.05, -.8), (.8, -.95), (.8, -.05), (.05, -.3))),
    "sword": (("poly", (-.11, .35), (-.11, -.75), (0, -.98), (.11, -.75), (.11, .35)), ("box", -.45, .35, .45, .5), ("box", -.08, .5, .08, .95)),
    "scissors": (("ring", -.42, .65, .28, .13), ("ring", .42, .65, .28, .13), ("line", .14, (-.3, .45), (.4, -.95)), ("line", .14, (.3, .45), (-.4, -.95))),
    "fork": (("line", .13, (-.3, -.95), (-.3, -.35)), ("line", .13, (0, -.95), (0, .95)), ("line", .13, (.3, -.95), (.3, -.35)), ("box", -.36, -.42, .36, -.25)),
    "spoon": (("oval", 0, -.58, .34, .4), ("box", -.08, -.3, .08, .95)),
    "bottle": (("box", -.36, -.2, .36, .95), ("disc", 0, -.2, .36), ("box", -.14, -.95, .14, -.3)),
    "mug": (("box", -.6, -.6, .4, .75), ("ring", .45, .05, .42, .15)),
    "chair": (("box", -.55, -.95, -.38, .95), ("box", -.5, .05, .55, .25), ("box", .38, .1, .55, .95)),
    "table": (("box", -.95, -.4, .95, -.18), ("box", -.75, -.3, -.58, .7), ("box", .58, -.3, .75, .7)),
    "lamp": (("poly", (-.3, -.9), (.3, -.9), (.65, -.1), (-.65, -.1)), ("box", -.07, -.1, .07, .8), ("box", -.4, .75, .4, .92)),
    "ladder": (("box", -.48, -.95, -.32, .95), ("box", .32, -.95, .48, .95), ("box", -.4, -.68, .4, -.54), ("box", -.4, -.28, .4, -.14), ("box", -.4, .12, .4, .26), ("box", -.4, .52, .4, .66)),
    "bell": (("disc", 0, -.3, .5), ("poly", (-.5, -.3), (.5, -.3), (.78, .55), (-.78, .55)), ("disc", 0, .7, .17)),
    "candle": (("box", -.26, -.2, .26, .95), ("oval", 0, -.66, .17, .32), ("box", -.04, -.4, .04, -.15)),
    "hourglass": (("poly", (-.6, -.9), (.6, -.9), (-.6, .9), (.6, .9)),),
    "magnet": (("disc", 0, -.1, .8), ("cut_disc", 0, -.1, .4), ("box", -.8, -.1, -.4, .8), ("cut_box", -.4, -.1, .4, 1), ("box", .4, -.1, .8, .8), ("cut_box", -1, .45, 1, .52)),
    "lock": (("box", -.62, -.15, .62, .85), ("ring", 0, -.2, .5, .18), ("cut_disc", 0, .3, .14)),
    "glasses": (("ring", -.5, 0, .42, .14), ("ring", .5, 0, .42, .14), ("box", -.15, -.08, .15, .06)),
    "trophy": (("box", -.45, -.9, .45, -.2), ("disc", 0, -.2, .45), ("ring", -.48, -.5, .3, .11), ("ring", .48, -.5, .3, .11), ("box", -.09, .1, .09, .7), ("box", -.4, .68, .4, .9)),
    "light bulb": (("disc", 0, -.3, .6), ("box", -.26, .1, .26, .6), ("cut_box", -.3, .48, .3, .55), ("box", -.26, .62, .26, .9)),
    # second transfer set: vehicles, clothes, buildings, food
    "car": (("box", -.95, -.05, .95, .35), ("poly", (-.6, -.02), (-.35, -.45), (.35, -.45), (.65, -.02)), ("disc", -.52, .38, .24), ("disc", .52, .38, .24), ("cut_disc", -.52, .38, .09), ("cut_disc", .52, .38, .09)),
    "truck": (("box", -.95, -.6, .35, .4), ("poly", (.4, .4), (.4, -.25), (.7, -.25), (.95, .08), (.95, .4)), ("disc", -.55, .48, .24), ("disc", .6, .48, .24), ("box", .3, .2, .5, .4)),
    "boat": (("poly", (-.9, .35), (.9, .35), (.55, .85), (-.55, .85)), ("box", -.05, -.9, .05, .4), ("poly", (.1, -.9), (.75, .2), (.1, .2)), ("poly", (-.1, -.6), (-.55, .2), (-.1, .2))),
    "plane": (("oval", 0, 0, .16, .95), ("poly", (0, -.3), (.95, .25), (.95, .42), (0, .15), (-.95, .42), (-.95, .25)), ("poly", (0, .55), (.42, .85), (.42, .95), (-.42, .95), (-.42, .85))),
    "rocket": (("oval", 0, -.1, .3, .85), ("poly", (-.25, .2), (-.65, .85), (-.2, .65)), ("poly", (.25, .2), (.65, .85), (.2, .65)), ("cut_disc", 0, -.3, .12), ("poly", (-.15, .75), (.15, .75), (0, 1))),
    "bicycle": (("ring", -.58, .3, .38, .09), ("ring", .58, .3, .38, .09), ("line", .09, (-.58, .3), (-.25, -.35), (.4, -.35), (0, .3), (-.58, .3)), ("line", .09, (.58, .3), (.35, -.6), (.6, -.62)), ("line", .09, (-.25, -.3), (-.3, -.55))),
    "wheel": (("ring", 0, 0, .92, .17), ("rays", 0, 0, 0, .85, 8, .1)),
    "gear": (("disc", 0, 0, .66), ("rays", 0, 0, .5, .95, 8, .28), ("cut_disc", 0, 0, .3)),
    "crown": (("poly", (-.8, .65), (-.9, -.6), (-.42, 0), (0, -.8), (.42, 0), (.9, -.6), (.8, .65)),),
    "hat": (("box", -.52, -.7, .52, .4), ("oval", 0, .42, .98, .22)),
    "shirt": (("box", -.48, -.65, .48, .85), ("poly", (-.45, -.65), (-.95, -.25), (-.75, .1), (-.4, -.15)), ("poly", (.45, -.65), (.95, -.25), (.75, .1), (.4, -.15)), ("cut_disc", 0, -.72, .22)),
    "trousers": (("box", -.5, -.9, .5, -.3), ("poly", (-.5, -.4), (-.02, -.4), (-.1, .95), (-.48, .95)), ("poly", (.5, -.4), (.02, -.4), (.1, .95), (.48, .95))),
    "boot": (("box", -.45, -.9, .15, .5), ("oval", .2, .5, .65, .32), ("box", -.45, .45, .8, .82)),
    "castle": (("box", -.8, -.2, .8, .85), ("box", -.9, -.7, -.45, .85), ("box", .45, -.7, .9, .85), ("cut_box", -.74, -.72, -.61, -.5), ("cut_box", .61, -.72, .74, -.5), ("cut_disc", 0, .5, .22), ("cut_box", -.22, .5, .22, .9), ("box", -.12, -.4, .12, -.15)),
    "tent": (("poly", (0, -.8), (.98, .75), (-.98, .75)), ("cut_poly", (0, -.1), (.3, .76), (-.3, .76))),
    "flag": (("box", -.75, -.95, -.6, .95), ("box", -.65, -.9, .85, 0)),
    "guitar": (("disc", 0, .55, .42), ("disc", 0, .05, .3), ("box", -.08, -.95, .08, 0), ("cut_disc", 0, .4, .13), ("box", -.17, -.98, .17, -.75)),
    "balloon": (("oval", 0, -.3, .55, .65), ("poly", (0, .3), (.13, .5), (-.13, .5)), ("line", .06, (0, .45), (.1, .7), (-.05, .98))),
    "donut": (("disc", 0, 0, .85), ("cut_disc", 0, 0, .32)),
    "ice cream": (("disc", 0, -.4, .5), ("poly", (-.45, -.15), (.45, -.15), (0, .98)), ("cut_line", .06, (-.5, -.1), (.5, -.1))),
}
# fmt: on

#: Small marks that clutter a picture without being a class.
MARKS: dict[str, tuple[tuple, ...]] = {
    "dot": (("disc", 0, 0, 0.9),),
    "block": (("box", -0.8, -0.8, 0.8, 0.8),),
    "wedge": (("poly", (0, -0.9), (0.9, 0.8), (-0.9, 0.8)),),
    "plus": (("box", -0.9, -0.3, 0.9, 0.3), ("box", -0.3, -0.9, 0.3, 0.9)),
}


class _Canvas:
    """A supersampled one-bit drawing on [-EXTENT, EXTENT]^2."""

    def __init__(self) -> None:
        self.size = RESOLUTION * _SUPERSAMPLE
        self.ink = np.zeros((self.size, self.size), dtype=bool)

    def _px(self, value: float) -> float:
        return (value + EXTENT) / (2 * EXTENT) * self.size

    def _length(self, value: float) -> float:
        return value / (2 * EXTENT) * self.size

    def apply(self, name: str, args: tuple) -> None:
        mode, _, kind = name.rpartition("_")
        layer = Image.new("1", (self.size, self.size))
        getattr(self, f"_{kind}")(ImageDraw.Draw(layer), *args)
        mask = np.asarray(layer)
        if mode == "cut":
            self.ink &= ~mask
        elif mode == "keep":
            self.ink &= mask
        else:
            self.ink |= mask

    def _oval(self, draw, x, y, rx, ry):
        draw.ellipse([self._px(x - rx), self._px(y - ry), self._px(x + rx), self._px(y + ry)], fill=1)

    def _disc(self, draw, x, y, r):
        self._oval(draw, x, y, r, r)

    def _box(self, draw, x0, y0, x1, y1):
        draw.rectangle([self._px(x0), self._px(y0), self._px(x1), self._px(y1)], fill=1)

    def _poly(self, draw, *points):
        draw.polygon([(self._px(x), self._px(y)) for x, y in points], fill=1)

    def _line(self, draw, width, *points):
        xy = [(self._px(x), self._px(y)) for x, y in points]
        draw.line(xy, fill=1, width=round(self._length(width)), joint="curve")

    def _ring(self, draw, x, y, r, width):
        box = [self._px(x - r), self._px(y - r), self._px(x + r), self._px(y + r)]
        draw.ellipse(box, outline=1, width=round(self._length(width)))

    def _wave(self, draw, width, amplitude, periods):
        xs = np.linspace(-0.9, 0.9, 60)
        ys = amplitude * np.sin(xs / 0.9 * math.pi * periods)
        self._line(draw, width, *zip(xs.tolist(), ys.tolist(), strict=True))

    def _star(self, draw, x, y, outer, inner, points):
        angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
        radii = [outer, inner] * points
        corners = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]
        self._poly(draw, *corners)

    def _rays(self, draw, x, y, r0, r1, count, width):
        for k in range(count):
            a = 2 * math.pi * k / count - math.pi / 2
            c, s = math.cos(a), math.sin(a)
            self._line(draw, width, (x + r0 * c, y + r0 * s), (x + r1 * c, y + r1 * s))


def _field(steps: tuple[tuple, ...]) -> np.ndarray:
    canvas = _Canvas()
    for name, *args in steps:
        canvas.apply(name, tuple(args))
    outside = np.asarray(distance_transform_edt(~canvas.ink))
    inside = np.asarray(distance_transform_edt(canvas.ink))
    distance = (outside - inside) * (2 * EXTENT / canvas.size)
    half = _SUPERSAMPLE // 2
    return distance[half::_SUPERSAMPLE, half::_SUPERSAMPLE]


@lru_cache(maxsize=8)
def signed_distances(names: tuple[str, ...]) -> Float[Tensor, "cls row column"]:
    """Signed distance fields of the named silhouettes or marks (negative inside).

    Distances are in silhouette units: the canvas [-1, 1] is two units wide. The result is cached and shared,
    so it must not be written to.

    Raises:
        KeyError: a name is neither in :data:`SILHOUETTES` nor in :data:`MARKS`.
    """
    steps = [SILHOUETTES[name] if name in SILHOUETTES else MARKS[name] for name in names]
    return torch.from_numpy(np.stack([_field(each) for each in steps])).float()
