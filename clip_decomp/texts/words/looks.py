"""How things look: color, pattern, surface, shape, material, size."""

from __future__ import annotations

from ..grammar import Group

LOOKS: dict[str, tuple[Group, ...]] = {
    "color": (
        Group(
            """red, orange, yellow, green, blue, purple, pink, brown, black, white, gray, beige, turquoise, teal, cyan,
            magenta, maroon, crimson, scarlet, violet, lavender, indigo, navy blue, sky blue, light blue, dark blue,
            pale pink, hot pink, dark red, dark green, light green, olive green, lime green, emerald green, mint green,
            mustard yellow, golden yellow, lemon yellow, ivory, charcoal gray, silvery gray, rusty red,
            chocolate brown, cream white, burnt orange""",
            """something {w}; an image that is mostly {w}; a photo full of {w}; {a} object; a lot of {w} in the picture;
            a flat {w} surface""",
            each=2,
        ),
        Group(
            """red and white, black and yellow, blue and orange, green and gold, pink and gray, purple and yellow,
            black and red, blue and white, brown and cream, green and red, turquoise and pink, orange and black""",
            "something {w}; an image dominated by {w}",
        ),
        Group(
            """warm, cool, pastel, neon, muted, faded, earthy, saturated, bright, dull, clashing, matching,
            contrasting, metallic, fluorescent""",
            "{w} colors throughout the picture; a palette of {w} colors",
            each=1,
        ),
        Group(
            """a picture with every color of the rainbow, a picture with hardly any color,
            only one color in the whole image, shades of gray and nothing else, a single spot of color on gray,
            two colors side by side, a smooth fade from one color to another, colors that seem to glow, sepia tones,
            a multicolored object, paint splashed in many colors, a colorless scene, a chart of color swatches""",
        ),
    ),
    "pattern": (
        Group(
            """striped, checkered, dotted, spotted, speckled, zigzag, plaid, tartan, houndstooth, herringbone, paisley,
            floral, argyle, chevron, camouflage, honeycomb, lattice, mosaic, basketweave, wavy, marbled, tie-dyed,
            pinstriped, crosshatched, diamond, scalloped, swirling, spiral, concentric, tiled, brickwork, fishbone,
            leopard-print, zebra-striped, tiger-striped, snakeskin, polka-dot, gingham, damask, mandala, kaleidoscopic,
            pixelated, barcode-like, maze-like""",
            "{a} pattern; something with {a} design; a surface covered by {a} pattern",
            each=2,
        ),
        Group(
            """horizontal stripes, vertical stripes, diagonal stripes, thin parallel lines, large dots, tiny dots,
            overlapping circles, repeated triangles, rows of squares, interlocking hexagons, crossed lines, wavy lines,
            small stars, scattered hearts, repeated leaves, intertwined vines, broken lines, concentric rings""",
            "a pattern of {w}; fabric printed with {w}",
            each=1,
        ),
    ),
    "surface": (
        Group(
            """smooth, rough, bumpy, wrinkled, fluffy, furry, hairy, fuzzy, spiky, prickly, scaly, slimy, sticky,
            greasy, glossy, matte, polished, scratched, cracked, peeling, flaky, grainy, gritty, dusty, muddy, frosted,
            rusty, corroded, weathered, worn, bubbly, foamy, porous, ribbed, grooved, pleated, crumpled, quilted,
            woven, knitted, braided, embossed, engraved, pitted, velvety, silky, waxy, powdery, crystalline, leathery,
            feathery, icy""",
            "{a} surface; detail of {a} texture; something {w}; {a} object",
            each=2,
        ),
        Group(
            "fur, feathers, scales, wrinkles, cracks, scratches, dents, ridges, fibers, folds, creases, blisters",
            "a texture of {w}; {w} all over the surface",
            each=1,
        ),
    ),
    "shape": (
        Group(
            """circle, square, triangle, rectangle, pentagon, hexagon, octagon, oval, ellipse, rhombus, trapezoid,
            parallelogram, crescent, cube, sphere, cone, cylinder, pyramid, prism, torus/tori, hemisphere, spiral,
            helix, semicircle, teardrop, ring, arrowhead, dome, arch, wedge, polygon, cross/crosses, disk,
            five-pointed star, heart, clover shape, zigzag line, loop""",
            "an object in the form of {a}; an image of {a}; the outline of {a}; {s}",
            each=2,
        ),
        Group(
            """round, triangular, rectangular, spherical, cylindrical, conical, cubic, oval, curved, pointed, flat,
            hollow, elongated, slender, bulging, twisted, bent, angular, jagged, rounded, star-shaped, heart-shaped,
            ring-shaped, egg-shaped, bell-shaped, crescent-shaped, U-shaped, S-shaped, T-shaped, diamond-shaped,
            mushroom-shaped, box-shaped, tapering, branching, boxy, domed, coiled""",
            "{a} object; something {w}; {a} form",
            each=1,
        ),
        Group("sharp corners, soft edges, rounded corners, straight sides, smooth curves", "a shape with {w}"),
    ),
    "material": (
        Group(
            """brass, bronze, copper, gold, silver, steel, iron, aluminum, tin, lead, chrome, glass, crystal,
            porcelain, ceramic, clay, terracotta, concrete, marble, granite, sandstone, slate, brick, wood, bamboo,
            cork, cardboard, paper, papier-mâché, leather, suede, cotton, linen, wool, silk, velvet, denim, felt, lace,
            nylon, plastic, rubber, foam, wax, ivory, bone, straw, wicker, jade, amber, mother-of-pearl, ice, mud,
            sand, plaster, vinyl, stainless steel, carbon fiber""",
            """something made of {w}; an object made entirely from {w}; a piece of {w}; the texture of {w}""",
            each=1,
        ),
        Group(
            "wooden, metallic, golden, transparent, translucent, opaque, gilded, enameled, lacquered",
            "{a} object; {a} bowl",
        ),
    ),
    "size": (
        Group(
            """tiny, small, medium-sized, large, huge, gigantic, miniature, life-sized, oversized, tall, short, wide,
            narrow, long, thin, thick, bulky, compact, massive, microscopic, pocket-sized, low, towering, broad""",
            "{a} object; a photo of something {w}; an image of {a} thing",
            each=1,
        ),
        Group(
            """ant, pea, coin, thumb, fist, shoebox, chair, door, car, house, whale, mountain, fingernail, football,
            grain of rice, matchbox""",
            "something the size of {a}; an object about as big as {a}",
            each=1,
        ),
        Group(
            """a small object beside a much larger one, an object that fills the whole frame,
            an object that takes up half of the picture, an object too big to fit in the picture,
            an object so small that it is hard to see, two objects of the same size,
            objects sorted from small to large, a large object in a small space, a small figure in a vast space,
            a person next to an enormous structure, something held between two fingers,
            something that fits in one hand, a scale model next to a ruler, an adult next to a small child,
            a tiny hole, a very long line, a thin slice, a thick layer, a wide open area, a narrow gap""",
        ),
    ),
}
