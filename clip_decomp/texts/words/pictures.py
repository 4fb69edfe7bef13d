"""How pictures are made: lighting, style and medium, camera, viewpoint, kinds of graphics."""

from __future__ import annotations

from ..grammar import Group

PICTURES: dict[str, tuple[Group, ...]] = {
    "lighting": (
        Group(
            """soft, harsh, dim, bright, warm, cold, natural, artificial, candle, neon, fluorescent, stage, studio,
            flickering, diffuse, dappled, reflected, overhead, golden, bluish, greenish, ultraviolet, blinding""",
            """{w} light; a scene in {w} light; a room filled with {w} light; {w} light falling on an object""",
            each=1,
        ),
        Group(
            """sunlight, moonlight, candlelight, firelight, lamplight, starlight, a spotlight, a flashlight,
            headlights, a single bulb, street lamps, a campfire, lanterns, a computer screen, lightning, fairy lights,
            a laser""",
            "a scene lit by {w}; something illuminated by {w}",
        ),
        Group(
            """the side, behind, above, below, the left, a window, an open door, a crack in the wall, one corner""",
            "light coming from {w}",
        ),
        Group(
            """deep shadows, long shadows, a sharp shadow on the wall, a silhouette against a bright sky,
            a bright subject on a dark background, a dark subject on a bright background, rays of light through dust,
            a glowing object in the dark, a reflection of light on metal, sparkling highlights, a halo of light,
            high contrast between light and shade, even light without shadows, total darkness, light trails,
            a shining edge around a dark figure, shadows of leaves, an almost black image, an almost white image,
            glare on glass, a dark room with one bright spot, a shadow shaped like a person""",
        ),
    ),
    "style": (
        Group(
            """oil painting, watercolor painting, pencil sketch, charcoal drawing, ink drawing, pastel drawing,
            woodcut, linocut, engraving, etching, fresco, cartoon, comic strip, manga panel, caricature, 3D rendering,
            pixel-art image, vector illustration, collage, cave painting, crayon drawing, line drawing, paper cutout,
            stencil print, tapestry, graffiti mural, ink-wash painting, silkscreen print, botanical drawing,
            chalk drawing, blueprint, video-game screenshot, claymation still, scratchboard drawing,
            child's drawing, doodle, finger painting, sand drawing, felt-tip drawing, movie still, flat design,
            rough draft""",
            """{a}; {a} of something; this is {a}; an image in the form of {a}; a scene shown as {a}""",
            each=1,
        ),
        Group(
            """marble sculpture, bronze statue, clay figure, papercraft model, low-poly model, wire sculpture,
            stained-glass window, wood carving, stone bust, ice sculpture, origami figure, tattoo, embroidery, icon,
            wax figure, ceramic tile mural, mosaic floor, stone relief""",
            "{a}; a photo of {a}",
            each=1,
        ),
        Group(
            """realistic, photorealistic, surrealist, cubist, impressionist, expressionist, minimalist, baroque,
            gothic, futurist, medieval, psychedelic, classical, retro, vintage, modernist, naive, pointillist,
            hyperrealist, constructivist, abstract expressionist""",
            "an image in {a} style; {a} work of art; a picture that looks {w}",
            each=1,
        ),
        Group(
            """pop art, op art, art deco, art nouveau, folk art, street art, Bauhaus, Renaissance, rococo, ukiyo-e,
            steampunk, cyberpunk, anime, film noir""",
            "a picture in the {w} style",
        ),
        Group(
            """studio, passport, wedding, press, fashion, street, wildlife, product, food, sports, travel, family,
            school, newspaper, advertising, satellite, medical, police""",
            "{a} photograph",
        ),
    ),
    "camera": (
        Group(
            """blurry, sharp, out-of-focus, overexposed, underexposed, grainy, noisy, pixelated, low-resolution,
            high-resolution, badly cropped, tilted, overcompressed, washed-out, oversharpened, double-exposed,
            long-exposure, motion-blurred, black-and-white, sepia, cross-processed, infrared, color-inverted, instant,
            time-lapse, high-speed, vignetted, distorted, retouched, heavily filtered, faded, scratched, posterized,
            mirrored, amateur, professional, candid, posed, panoramic, square, unedited, stitched""",
            "{a} photo; {a} picture of something; {a} shot",
            each=1,
        ),
        Group(
            """film grain, lens flare, motion blur, camera shake, chromatic aberration, JPEG artifacts,
            a shallow depth of field, a blurred background, everything in focus, a color cast, red eyes, a light leak,
            a date in the corner, a tilt-shift effect, high contrast, low contrast, visible dust and scratches,
            a moiré effect""",
            "a photo with {w}; an image that has {w}",
            each=1,
        ),
        Group(
            """a fisheye lens, a wide-angle lens, a telephoto lens, a macro lens, a flash, a pinhole camera,
            a smartphone, an old camera, a security camera, a drone, a microscope, a telescope, a thermal camera,
            a dirty lens, a soft-focus filter, a slow shutter, a dashboard camera, an underwater camera""",
            "a photo taken with {w}",
        ),
        Group(
            """an X-ray image, an ultrasound image, a night-vision image, a scanned photograph, a photo of a photo,
            a screenshot, a webcam picture, an image full of static, a selfie, a black frame, a photo with a border,
            a picture with rounded corners, a photo taken through a window, a frame from a video,
            a picture taken through a fence, a photo reflected in a mirror, a crumpled photograph""",
        ),
    ),
    "viewpoint": (
        Group(
            """above, below, the side, behind, the front, far away, very close, the air, the ground, a moving train,
            the inside of a car, the top of a tower, a hidden place, eye level, an unusual angle, an airplane window,
            a rooftop, under the water, a doorway, space""",
            "a view from {w}; an object seen from {w}",
            each=2,
        ),
        Group(
            """bird's-eye, worm's-eye, first-person, front, side, rear, top-down, three-quarter, cutaway, exploded,
            cross-section, panoramic, partial, distant, tilted""",
            "{a} view; {a} view of an object",
            each=1,
        ),
        Group(
            """a close-up of a small detail, an extreme close-up, a wide shot of the whole scene,
            a full-length portrait, a head-and-shoulders portrait, a profile, a figure from behind,
            looking straight up, looking straight down, looking through a keyhole, peeking around a corner,
            looking over a shoulder, a view down a long corridor, the underside of a thing,
            the inside of a hollow object, the back of a head""",
        ),
    ),
    "graphic": (
        Group(
            """bar chart, pie chart, line graph, scatter plot, world map, street map, subway map, weather map,
            floor plan, circuit diagram, flowchart, family tree, timeline, calendar page, table of numbers,
            postage stamp, banknote, playing card, movie poster, book cover, album cover, magazine cover, postcard,
            ticket, receipt, menu, certificate, passport, business card, coat of arms, national flag, infographic,
            web page, app screen, desktop screen, sheet of music, star chart, anatomical diagram, technical drawing,
            globe, traffic sign, product label, coloring page, game board, crest, set of icons, knitting pattern,
            instruction sheet""",
            "a picture of {a}; {a} filling the image; this image is {a}",
            each=1,
        ),
    ),
}
