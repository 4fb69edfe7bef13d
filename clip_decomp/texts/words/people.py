"""People: who they are, what they do and feel, and the parts of their bodies."""

from __future__ import annotations

from ..grammar import Group

PEOPLE: dict[str, tuple[Group, ...]] = {
    "person": (
        Group(
            """baby, toddler, child/children, boy, girl, teenager, young man/young men, young woman/young women,
            middle-aged man/middle-aged men, middle-aged woman/middle-aged women, old man/old men, old woman/old women,
            grandmother, grandfather, mother, father, bride, groom, newborn, schoolchild/schoolchildren, adult,
            bald man/bald men, bearded man/bearded men, pregnant woman/pregnant women, tourist, pedestrian, king,
            queen, princess, knight, pirate, witch, wizard, angel, giant, clown""",
            "a portrait of {a}; an image showing {a}; {s}; there is {a} in the picture",
            each=1,
        ),
        Group(
            """curly hair, straight hair, long hair, short hair, blond hair, red hair, gray hair, braided hair,
            freckles, a mustache, a long beard, a tattoo, heavy makeup, a bandage, a walking stick, a broad smile,
            bare feet""",
            "a person with {w}",
        ),
        Group(
            """a mother and her child, a married couple, two friends, three generations of a family,
            a grandparent with a grandchild, a crowd of strangers, brothers and sisters, a person alone,
            a face in a crowd""",
        ),
    ),
    "body": (
        Group(
            """face, forehead, eye, eyebrow, eyelash, ear, nose, cheek, mouth, lip, tongue, tooth/teeth, chin, neck,
            shoulder, arm, elbow, wrist, hand, palm, finger, thumb, fingernail, chest, back, belly, hip, leg, knee,
            ankle, foot/feet, heel, toe, skull, skeleton, spine, rib, fist""",
            "an image of a human {w}; a photo showing {a}; {s}; part of the body: {a}",
            each=1,
        ),
        Group(
            "a human heart, a lung, a brain, a stomach, a liver, a muscle, a kidney, a blood vessel",
            "an anatomical image of {w}",
        ),
    ),
    "profession": (
        Group(
            """doctor, nurse, surgeon, dentist, pharmacist, veterinarian, firefighter, police officer, soldier, sailor,
            pilot, flight attendant, astronaut, bus driver, train conductor, farmer, fisherman/fishermen, gardener,
            carpenter, plumber, electrician, mechanic, welder, blacksmith, bricklayer, miner, engineer, architect,
            scientist, teacher, librarian, judge, lawyer, journalist, photographer, painter, sculptor, musician,
            singer, ballet dancer, actor, magician, acrobat, chef, baker, butcher, waiter, bartender, barber, tailor,
            shoemaker, jeweler, potter, weaver, shopkeeper, cashier, mail carrier, janitor, lifeguard, shepherd,
            beekeeper, monk, priest, referee, politician, secretary, programmer, security guard, street vendor, cowboy,
            construction worker, diver, detective, florist, watchmaker""",
            """{a} at work; a portrait of {a}; {s}; an image with {a}; a person who works as {a}""",
            each=1,
        ),
    ),
    "action": (
        Group(
            """walking, running, jumping, climbing, crawling, falling, sitting, standing, kneeling, lying down,
            sleeping, waking up, eating, drinking, cooking, baking, reading, writing, drawing, painting a wall,
            singing, dancing, laughing, crying, shouting, whispering, talking on the phone, waving, pointing, clapping,
            hugging a friend, kissing a child, shaking hands, fighting, swimming, diving, sailing a boat, rowing,
            fishing, cycling, driving, flying a kite, horseback riding, throwing a ball, catching a ball,
            carrying a box, pushing a cart, pulling a rope, digging a hole, planting a tree, watering flowers,
            chopping wood, sweeping the floor, washing dishes, ironing, sewing, knitting, typing, taking a photo,
            watching television, playing cards, praying, meditating, stretching, yawning, shaving, brushing teeth,
            combing hair, getting dressed, opening a door, climbing stairs, waiting, shopping, paying, voting,
            teaching, building a wall, repairing a machine, blowing out candles, pouring water, cutting bread,
            peeling fruit, feeding an animal, playing the piano, giving a speech, marching, hiding, holding hands,
            stroking a cat, looking into the distance""",
            "someone {w}; a person {w}; a photo of people {w}; an image of somebody {w}; the act of {w}",
            each=1,
        ),
        Group(
            """water dripping, a glass breaking, a door closing, leaves falling, smoke rising, a ball bouncing,
            a wheel turning, an animal hunting, a bird taking off, an engine running, waves crashing, a flag waving,
            a dog barking, a fire burning, ice melting, a bomb exploding, a machine at work""",
        ),
    ),
    "sport": (
        Group(
            """soccer, basketball, volleyball, tennis, table tennis, badminton, baseball, cricket, golf, rugby,
            ice hockey, field hockey, handball, water polo, American football, billiards, squash""",
            "a game of {w}; people who play {w}; {w} equipment",
            each=1,
        ),
        Group(
            """swimming, boxing, wrestling, fencing, judo, karate, archery, gymnastics, weightlifting, skiing,
            snowboarding, figure skating, speed skating, surfing, windsurfing, rock climbing, horse racing,
            show jumping, cross-country running, the high jump, the long jump, the javelin throw, the pole vault,
            hurdling, diving, rowing, sailing, cycling, motor racing, skateboarding, yoga, marathon running,
            paragliding, bobsledding""",
            "the sport of {w}; a photo of {w}; a competition in {w}",
            each=1,
        ),
        Group(
            """a goal and a goalkeeper, a finish line, a podium with three winners, a boxing ring, a swimming lane,
            a tennis racket, a baseball bat, a pair of skis, a surfboard, a barbell, a stopwatch, a scoreboard,
            a stadium full of fans, a referee's whistle, a basketball hoop, a golf club, a hockey stick,
            a team huddle""",
        ),
    ),
    "emotion": (
        Group(
            """happy, sad, angry, surprised, frightened, disgusted, bored, tired, calm, proud, ashamed, shy, jealous,
            confused, curious, worried, relieved, hopeful, disappointed, lonely, excited, nervous, amused, grumpy,
            thoughtful, suspicious, embarrassed, grateful, determined, shocked, indifferent, serious, cheerful,
            annoyed, desperate, content, puzzled, stern""",
            "a person who looks {w}; {a} face; somebody feeling {w}; the look of {a} person",
            each=1,
        ),
        Group(
            """joy, grief, rage, fear, love, hatred, envy, pride, guilt, longing, disgust, surprise, trust, boredom,
            relief, despair, hope, tenderness, pain, delight, awe, contempt""",
            "a face that shows {w}; an expression of {w}",
            each=1,
        ),
    ),
    "mood": (
        Group(
            """peaceful, gloomy, romantic, mysterious, festive, eerie, tense, cozy, nostalgic, solemn, playful, dreamy,
            dramatic, melancholy, cheerful, threatening, magical, lonely, sacred, sleepy, hectic, lively, bleak,
            tender, humorous, elegant, rustic, luxurious, sterile, wild, oppressive, intimate, majestic, whimsical,
            sinister, hopeful, timeless, awkward, heroic, chilly""",
            "{a} atmosphere; an image with {a} mood; a scene that feels {w}",
            each=1,
        ),
    ),
}
