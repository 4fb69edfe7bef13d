"""Things that people make: tools, vehicles, clothes, furniture, household, electronics, instruments, toys."""

from __future__ import annotations

from ..grammar import Group

THINGS: dict[str, tuple[Group, ...]] = {
    "tool": (
        Group(
            """hammer, screwdriver, wrench, saw, axe, drill, chisel, file, crowbar, mallet, shovel, rake, hoe, pickaxe,
            wheelbarrow, ladder, toolbox, tape measure, nail, screw, bolt, gear, spring, pulley, rope, chain, hook,
            anvil, vise, clamp, sickle, scythe, trowel, paintbrush, paint roller, plunger, lawn mower, chainsaw,
            sewing machine, needle, thimble, compass, magnifying glass, microscope, telescope, thermometer,
            stethoscope, syringe, caliper, soldering iron, spirit level, whetstone, pocketknife/pocketknives,
            fishing rod, watering can, garden hose""",
            "a photo of {a}; {s}; {a} on a workbench; working with {a}; an image that shows {a}",
            each=1,
        ),
        Group("scissors, pliers, tweezers, garden shears, tongs, binoculars", "a pair of {w}"),
    ),
    "vehicle": (
        Group(
            """car, taxi, bus/buses, truck, van, ambulance, fire engine, police car, race car, convertible, SUV,
            tractor, bulldozer, excavator, forklift, motorcycle, scooter, bicycle, tricycle, unicycle, skateboard,
            train, steam locomotive, tram, subway car, cable car, airplane, helicopter, glider, hot-air balloon,
            airship, drone, space shuttle, rocket, ship, sailboat, rowboat, canoe, kayak, ferry, yacht, submarine,
            cargo ship, speedboat, raft, gondola, hovercraft/hovercraft, horse carriage, covered wagon, sled,
            camper van, garbage truck, tank, rickshaw, snowplow, golf cart, stroller, wheelchair, jet ski, lifeboat""",
            """an image showing {a}; {s}; a photo of {a}; {a} on its way; a vehicle: {a}""",
            each=1,
        ),
        Group(
            """a car wheel, a steering wheel, an airplane wing, a ship's propeller, a bicycle chain, a rearview mirror,
            a row of bus seats, a cockpit, the deck of a ship, a headlight, an exhaust pipe, a vehicle with two wheels,
            a vehicle on rails, a vehicle that flies, a vehicle that floats, a car engine""",
        ),
    ),
    "clothing": (
        Group(
            """shirt, T-shirt, blouse, sweater, hoodie, jacket, coat, raincoat, vest, suit, tuxedo, dress, skirt,
            wedding dress, kimono, sari, poncho, uniform, apron, bathrobe, swimsuit, hat, cap, beret, helmet, hard hat,
            top hat, straw hat, turban, headscarf/headscarves, scarf/scarves, necktie, bow tie, belt, veil, mask,
            lab coat, cape, cardigan, costume, nightgown, crown""",
            "a photo of {a}; a mannequin with {a}; {s}; someone who wears {a}; {a} in a shop window",
            each=1,
        ),
        Group(
            """glove, mitten, sock, shoe, boot, sandal, slipper, sneaker, high-heeled shoe, wedding ring, necklace,
            bracelet, earring, brooch, backpack, handbag, wallet, wristwatch, umbrella, shawl""",
            "a photo of {a}; {s}; an image of {a}; {a} in a shop window",
            each=1,
        ),
        Group(
            "trousers, jeans, shorts, glasses, sunglasses, goggles, pajamas, tights, leggings, overalls, suspenders",
            "a pair of {w}; someone who wears {w}",
            each=1,
        ),
        Group("a button, a zipper, a shoelace, a sleeve, a collar, a pocket, a hem, a hood, a buckle"),
    ),
    "furniture": (
        Group(
            """chair, armchair, rocking chair, stool, bench, sofa, table, coffee table, desk, bed, bunk bed, crib,
            cradle, wardrobe, dresser, bookcase, shelf/shelves, cabinet, chest, nightstand, mirror, lamp, floor lamp,
            chandelier, carpet, rug, curtain, cushion, mattress, hammock, fireplace, radiator, clock,
            grandfather clock, vase, picture frame, coat rack, door, window, staircase, bathtub, sink, toilet, shower,
            faucet, lampshade, footstool, highchair, folding screen, dining table, filing cabinet, deck chair,
            throne""",
            "a room with {a}; a photo of {a}; {s}; an image of {a}; a picture with {a} in it",
            each=1,
        ),
    ),
    "household": (
        Group(
            """cup, mug, glass, plate, bowl, teapot, kettle, coffee maker, frying pan, saucepan, wok, ladle, spoon,
            fork, knife/knives, spatula, whisk, rolling pin, cutting board, corkscrew, bottle, jar, can, jug, pitcher,
            bucket, basin, broom, mop, vacuum cleaner, iron, ironing board, washing machine, refrigerator, oven,
            microwave oven, toaster, blender, dishwasher, trash can, laundry basket, clothespin, candle, candlestick,
            matchbox, lighter, ashtray, pillow, blanket, towel, toothbrush, comb, hairbrush, razor, sponge, key,
            padlock, light bulb, flowerpot, sieve, salt shaker, napkin, doormat, hourglass, bell, safety pin""",
            "an image of {a}; {s}; a household object: {a}; a photo that shows {a}; there is {a} in the picture",
            each=1,
        ),
        Group(
            """book, notebook, pencil, fountain pen, ruler, eraser, stapler, envelope, newspaper, letter opener,
            briefcase, suitcase, paper clip, pushpin, folder, inkwell, blackboard, cardboard box, gift box,
            wooden crate, barrel, basket, coin, piggy bank, flag, trophy, medal, magnet, cane, fan""",
            "a photo of {a}; an everyday object: {a}",
            each=1,
        ),
    ),
    "electronics": (
        Group(
            """computer, laptop, keyboard, computer mouse/computer mice, monitor, printer, tablet, smartphone,
            rotary telephone, phone booth, television, remote control, radio, record player, cassette tape,
            loudspeaker, microphone, video camera, projector, game controller, robot, circuit board, microchip,
            battery, charger, power outlet, light switch, extension cord, antenna, satellite dish, solar panel,
            wind turbine, calculator, cash register, vending machine, parking meter, alarm clock, smartwatch,
            hard drive, router, typewriter, fax machine, walkie-talkie, server rack, oscilloscope, electric motor,
            traffic light""",
            "an image of {a}; {s}; technology: {a}; a photo showing {a}; a picture of {a}",
            each=1,
        ),
        Group("headphones, earbuds", "a pair of {w}"),
    ),
    "instrument": (
        Group(
            """guitar, electric guitar, violin, cello, double bass, harp, banjo, mandolin, ukulele, piano, grand piano,
            organ, accordion, harmonica, flute, recorder, clarinet, oboe, bassoon, saxophone, trumpet, trombone, tuba,
            French horn, bagpipe, drum, snare drum, drum set, tambourine, xylophone, gong, sitar, didgeridoo, lute,
            synthesizer, music box, bongo, harpsichord, zither""",
            "a photo of {a}; a musician with {a}; {s}; a musical instrument: {a}; a picture with {a} in it",
            each=1,
        ),
        Group("cymbals, castanets, maracas", "a pair of {w}"),
    ),
    "toy": (
        Group(
            """doll, teddy bear, toy car, toy train, kite, yo-yo, spinning top, marble, puzzle, jigsaw piece,
            dollhouse, rocking horse, puppet, balloon, ball, beach ball, building block, board game, chess piece,
            chessboard, domino set, dartboard, playground slide, seesaw, sandbox, trampoline, rubber duck,
            snow globe, toy soldier, jump rope, hula hoop, slingshot, boomerang, pinwheel, model airplane,
            stuffed animal, Rubik's cube, toy robot, soap bubble""",
            "a child's {w}; a photo of {a}; {s}; {a} to play with; a plaything: {a}",
            each=1,
        ),
    ),
}
