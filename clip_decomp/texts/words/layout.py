"""What is where and how often: location in the frame, arrangement, symmetry, count, writing, abstraction."""

from __future__ import annotations

from ..grammar import Group, crossed, paired

LAYOUT: dict[str, tuple[Group, ...]] = {
    "location": (
        Group(
            """in the center, at the top, at the bottom, in the upper left corner, in the upper right corner,
            in the lower left corner, in the lower right corner, along the bottom edge, near the top edge,
            at the left edge, at the right edge, on the left side, on the right side, in the left half,
            in the right half, in the upper third, in the lower third""",
            """something {w} of the picture; an object {w} of the frame; the main subject is {w} of the image;
            a bright spot {w} of the picture; a picture that is empty except for a thing {w}""",
            each=2,
        ),
        Group(
            """above, below, behind, in front of, inside, on top of, next to, underneath, leaning against,
            hanging over, half hidden by, wrapped around, far away from, floating over""",
            "one thing {w} another; an object {w} another object",
            each=1,
        ),
        Group(
            """in the foreground, in the background, in every corner, on the horizon, off center,
            cut off by the edge of the frame, between two others, close to the viewer, far from the viewer""",
            "an object {w}; the subject is {w}",
            each=1,
        ),
        Group(
            """a person to the left of a tree, a ball under a table, a lamp above a bed, a bird on a branch,
            a dog between two chairs, an empty center with things around it, an empty foreground,
            an empty left half""",
        ),
    ),
    "count": (
        Group(
            crossed(
                "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve",
                "birds, apples, people, chairs, boats",
            ),
            "an image with {w}; {w} in a row; exactly {w}; a photo that shows {w}",
            each=1,
        ),
        Group(
            paired(
                "many, several, a few, hundreds of, countless, twenty, thirty, fifty, a hundred, about a dozen",
                "flowers, bottles, cars, windows, coins, books, balloons, candles, birds, houses, cups",
            ),
            "{w}; a picture of {w}",
            each=1,
        ),
        Group(
            """bird, apple, person/people, chair, boat, candle, tree, cloud, building, egg""",
            "a single {w}; a pair of {s}; only one {w} in the whole picture; no {s} at all; a lone {w}",
            each=2,
        ),
        Group(
            """a crowd of people, a flock of birds, a herd of cattle, a swarm of insects, a school of fish,
            a pack of dogs, a bunch of keys, a stack of plates, a pile of stones, a heap of clothes, a row of houses,
            a bundle of sticks, a line of parked cars, a cluster of mushrooms, a handful of coins,
            a set of six glasses, a couple, identical twins, a trio, a quartet, a team of eleven, a family of five,
            a large group, an empty scene with nothing in it, more things than one can count,
            one object repeated many times""",
        ),
    ),
    "arrangement": (
        Group(
            """mirror symmetry, left-right symmetry, rotational symmetry, radial symmetry, strong asymmetry,
            a vertical axis of symmetry, a horizontal axis of symmetry, perfect balance, repeated units,
            fivefold symmetry, sixfold symmetry, nearly perfect symmetry, broken symmetry, point symmetry""",
            "an image with {w}; a design that shows {w}",
        ),
        Group(
            """symmetrical, asymmetrical, balanced, lopsided, orderly, chaotic, cluttered, minimal, dense, sparse,
            crowded, tidy, scattered, centered, diagonal, radial, layered, geometric, organic, random, modular""",
            "{a} arrangement; {a} composition of parts",
            each=1,
        ),
        Group(
            """a grid of equal squares, lines that meet at one point, lines that run in parallel, shapes inside shapes,
            two halves that mirror each other, curves that cross each other, objects in a straight line,
            objects in a circle, objects laid out in a grid, triangles that fill a plane, a tessellation of hexagons,
            nested rectangles, diverging rays, a fractal, a line that branches again and again, a maze of right angles,
            perspective lines, a tiling without gaps, a spiral of points, an arc over a straight line,
            two intersecting circles, a network of nodes and edges, a ring of equal parts, a right angle,
            a curve between two points, a diagonal that divides the image""",
        ),
    ),
    "writing": (
        Group(
            "A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z",
            "an image of the letter {w}; a sign with the letter {w}",
            each=1,
        ),
        Group("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", "the digit {w}"),
        Group(
            "zero, one, two, three, four, five, six, seven, eight, nine, ten, one hundred, one thousand",
            "the number {w} written in digits; a card with the number {w}",
            each=1,
        ),
        Group(
            """question mark, exclamation point, ampersand, percent sign, dollar sign, euro sign, plus sign,
            equals sign, hashtag, asterisk, arrow symbol, check mark, musical note, barcode, QR code, copyright symbol,
            emoji, Roman numeral, phone number, mathematical formula, logo, monogram, speech bubble, watermark,
            road sign, neon sign, price tag, warning label, license plate, newspaper headline, signature, street name,
            shop sign, page of a book, movie title, subtitle, handwritten letter, shopping list, crossword puzzle,
            date stamp, typed page, bumper sticker, name tag, chalkboard with text, banner with a slogan""",
            "an image of {a}; {a} in the picture; a photo showing {a}",
            each=1,
        ),
        Group(
            """Latin, Greek, Cyrillic, Arabic, Hebrew, Chinese, Japanese, Korean, Thai, Devanagari, Tamil""",
            "a text in {w} script; {w} characters",
            each=1,
        ),
        Group(
            """bold, italic, cursive, handwritten, printed, tiny, blurred, crossed-out, upside-down, vertical, gothic,
            typewritten, embossed, illegible, glowing, painted, carved""",
            "{w} writing; a picture with {w} lettering",
            each=1,
        ),
        Group("no writing anywhere, a page full of text, a single word, a short sentence, two lines of text, graffiti"),
    ),
    "abstract": (
        Group(
            """movement, stillness, growth, decay, chaos, order, silence, noise, tension, harmony, contrast, depth,
            emptiness, infinity, speed, freedom, time, memory, dreams, energy, gravity, balance, fragility, strength,
            isolation, connection, conflict, change, luck, danger""",
            """an abstract image about {w}; a picture that suggests {w}; shapes that express {w};
            an artwork on the theme of {w}""",
            each=1,
        ),
        Group(
            """brushstrokes, color fields, paint drips, smears of ink, floating shapes, smoke-like forms,
            colliding lines, geometric fragments, liquid forms, blots, torn paper shapes, cloudy gradients,
            random dots, digital noise, interference fringes, soft blobs, sharp splinters, looping curves""",
            "an abstract composition of {w}; nothing but {w}",
        ),
    ),
}
