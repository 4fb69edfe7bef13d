"""Living things and what is eaten: animals, birds, water and small animals, plants, fruit and vegetables, dishes."""

from __future__ import annotations

from ..grammar import Group

LIVING: dict[str, tuple[Group, ...]] = {
    "mammal": (
        Group(
            """dog, cat, horse, cow, sheep/sheep, goat, pig, donkey, rabbit, hamster, mouse/mice, rat, squirrel,
            hedgehog, fox, wolf/wolves, bear, polar bear, panda, lion, tiger, leopard, cheetah, elephant, rhinoceros,
            hippopotamus, giraffe, zebra, camel, llama, deer/deer, moose/moose, bison/bison, buffalo/buffalo, antelope,
            kangaroo, koala, sloth, monkey, gorilla, chimpanzee, orangutan, lemur, bat, beaver, otter, badger, raccoon,
            skunk, seal, walrus, dolphin, whale, porcupine, armadillo, anteater, yak, reindeer/reindeer, hyena,
            meerkat""",
            "a photo of {a}; {s}; there is {a} in the picture; an image showing {a}; a picture with {a} in it",
            each=1,
        ),
        Group("puppy, kitten, foal, calf/calves, lamb, piglet, fawn, bear cub", "{a}; a photo of {s}", each=1),
        Group(
            """a paw, a pair of antlers, a snout, a furry tail, a hoof, a mane, a trunk and two tusks, whiskers,
            an animal with horns, an animal with long ears, a four-legged animal, a farm animal, a pet,
            a wild animal""",
        ),
    ),
    "bird": (
        Group(
            """eagle, hawk, owl, parrot, penguin, ostrich/ostriches, flamingo, swan, duck, goose/geese, chicken,
            rooster, turkey, pigeon, seagull, sparrow, robin, crow, magpie, woodpecker, hummingbird, kingfisher,
            pelican, heron, stork, albatross, peacock, toucan, vulture, falcon, swallow, canary, puffin, emu""",
            "a photo of {a}; {s}; there is {a} in the picture; a picture with {a} in it; a bird: {a}",
            each=1,
        ),
        Group(
            """a bird in flight, a nest with eggs, a hooked beak, a spread wing, a bird's tail feathers, a birdcage,
            a chick just out of its egg, a wading bird, a songbird, a bird of prey""",
        ),
    ),
    "other animal": (
        Group(
            """snake, lizard, crocodile, turtle, tortoise, frog, toad, salamander, chameleon, gecko, iguana, shark,
            goldfish/goldfish, salmon/salmon, trout/trout, eel, stingray, seahorse, jellyfish/jellyfish, octopus,
            squid/squid, crab, lobster, shrimp/shrimp, starfish/starfish, sea urchin, snail, slug, earthworm, bee,
            wasp, ant, butterfly, moth, caterpillar, dragonfly, beetle, ladybug, grasshopper, cricket, mosquito, fly,
            spider, scorpion, centipede, cockroach, clownfish/clownfish, mussel, oyster""",
            "a photo of {a}; {s}; a picture with {a} in it; an image showing {a}; there is {a} in the picture",
            each=1,
        ),
        Group(
            """a spider's web, an anthill, an insect on a leaf, a shell with a spiral, a coral reef full of fish,
            a tentacle, an insect with six legs, a fin above the water, a cocoon, an animal with scales""",
        ),
    ),
    "plant": (
        Group(
            """rose, tulip, sunflower, daisy, orchid, lily, poppy, daffodil, carnation, iris/irises, lotus/lotuses,
            dandelion, violet, hydrangea, peony, thistle, water lily, crocus, marigold, snowdrop""",
            "{a} in bloom; a bouquet of {s}; a photo of {a}; a field of {s}",
            each=1,
        ),
        Group(
            """oak, pine, birch/birches, willow, palm tree, maple, fir, cypress/cypresses, olive tree, apple tree,
            cherry tree, eucalyptus/eucalyptuses, baobab, beech, redwood, bonsai tree, lemon tree, chestnut tree""",
            "an image of {a}; {s}; a large {w}; a picture with {a} in it",
            each=1,
        ),
        Group(
            """grass, moss, ivy, bamboo, seaweed, clover, heather, lavender, wheat, barley, rye, cotton, algae, reeds,
            lichen, nettles, mistletoe, sugar cane""",
            "{w} growing; a picture full of {w}",
            each=1,
        ),
        Group(
            """fern, cactus/cacti, succulent, vine, bush, hedge, shrub, seedling, bud, blossom, petal, leaf/leaves,
            twig, branch, root, tree trunk, tree stump, acorn, pine cone, seed pod, thorn, houseplant, potted plant,
            hanging basket, wreath, toadstool, chanterelle, climbing plant""",
            "a photo of {a}; {a} in the picture; {s}",
            each=1,
        ),
    ),
    "produce": (
        Group(
            """apple, pear, banana, orange, lemon, lime, grapefruit, peach, plum, apricot, cherry, strawberry,
            raspberry, blueberry, blackberry, grape, melon, watermelon, pineapple, mango/mangoes, papaya, kiwi fruit,
            coconut, fig, date, pomegranate, avocado, olive, cranberry, tangerine, tomato/tomatoes, potato/potatoes,
            carrot, onion, cucumber, eggplant, pumpkin, zucchini, bell pepper, chili pepper, cabbage, cauliflower,
            artichoke, radish, beet, turnip, leek, mushroom, walnut, almond, peanut, hazelnut""",
            "a picture of {a}; fresh {s}; a basket of {s}; {a} cut in half; a photo of {s}",
            each=1,
        ),
        Group("lettuce, spinach, celery, garlic, broccoli, kale, parsley, basil, corn on the cob", "fresh {w}"),
    ),
    "food": (
        Group(
            """bread, rice, pasta, soup, salad, cheese, butter, yogurt, honey, jam, chocolate, ice cream, popcorn,
            sushi, curry, stew, cake, roast chicken, grilled fish, bacon, ham, scrambled eggs, spaghetti, lasagna,
            paella, couscous, oatmeal, cereal, tofu, caviar, hummus, kimchi, ramen, gelatin, whipped cream,
            cotton candy, granola, mashed potatoes, French fries, baked beans, fruit salad, dried fruit, marmalade,
            sauerkraut, falafel""",
            "a serving of {w}; a photo of {w}; food: {w}; {w} on the table",
            each=1,
        ),
        Group(
            """pizza, hamburger, sandwich/sandwiches, hot dog, taco, burrito, pancake, waffle, croissant, bagel,
            pretzel, doughnut, muffin, cupcake, cookie, pie, birthday cake, omelet, boiled egg, steak, sausage,
            meatball, dumpling, spring roll, kebab, cracker, lollipop, candy bar, gingerbread house,
            loaf of bread/loaves of bread, baguette, cheesecake, tart, macaron, fortune cookie, wedding cake,
            gummy bear""",
            "a picture showing {a}; {s}; a photo of {a}; {a} on a plate; food: {a}",
            each=1,
        ),
        Group(
            """coffee, tea, milk, orange juice, lemonade, red wine, white wine, beer, champagne, hot chocolate, water,
            cola, cider, whiskey, tomato juice, iced tea, a milkshake, a cocktail, an espresso, a smoothie""",
            "{w} to drink; a drink: {w}; a photo of {w} in a cup or glass",
            each=1,
        ),
    ),
}
