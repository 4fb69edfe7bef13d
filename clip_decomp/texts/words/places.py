"""Where and when: scenes, buildings, landscapes, countries, cities, weather, season, time, events."""

from __future__ import annotations

from ..grammar import Group

PLACES: dict[str, tuple[Group, ...]] = {
    "scene": (
        Group(
            """kitchen, bedroom, bathroom, living room, dining room, attic, basement, garage, hallway, office,
            classroom, library, laboratory, hospital room, operating room, dentist's office, waiting room, gym,
            locker room, indoor swimming pool, restaurant, café, bar, bakery, butcher's shop, grocery store, bookstore,
            clothing store, pharmacy, hair salon, shopping mall, market hall, bank, post office, courtroom,
            prison cell, theater, movie theater, concert hall, museum, art gallery, recording studio, factory,
            warehouse, workshop, greenhouse, barn, stable, wine cellar, airport terminal, train station,
            subway station, bus station, elevator, hotel lobby, casino, nightclub, kindergarten, lecture hall,
            data center, laundromat""",
            "inside {a}; the interior of {a}; a photo taken in {a}; an indoor scene: {a}",
            each=1,
        ),
        Group(
            """street, alley, town square, parking lot, highway, intersection, park, playground, backyard,
            vegetable garden, orchard, vineyard, cemetery, zoo, amusement park, campsite, golf course, soccer field,
            race track, harbor, beach, pier, marina, construction site, junkyard, quarry, gas station,
            railroad crossing, runway, farm, village, suburb, city center, courtyard, rooftop terrace, flea market,
            ski slope, picnic area, boardwalk, battlefield, shipyard, oil field, schoolyard, bus stop, canal,
            rice paddy, tea plantation""",
            "an outdoor scene: {a}; a view of {a}; the setting is {a}; an image that shows {a}",
            each=1,
        ),
    ),
    "building": (
        Group(
            """house, cottage, log cabin, apartment building, skyscraper, tower, castle, palace, church, cathedral,
            mosque, synagogue, temple, pagoda, monastery, lighthouse, windmill, water tower, bridge, suspension bridge,
            dam, stadium, school, hospital, city hall, opera house, office block, power plant, shed, hut, igloo, tent,
            tree house, pyramid, obelisk, triumphal arch, aqueduct, amphitheater, fortress, villa, mansion, farmhouse,
            silo, grain elevator, pavilion, gazebo, bell tower, clock tower, observatory, ruin, bunker, carport,
            houseboat, tunnel entrance, factory chimney, gatehouse, half-timbered house""",
            "a view of {a}; architecture: {a}; {s}; a photo showing {a}; an image of {a}",
            each=1,
        ),
        Group(
            """balcony, column, dome, spire, gable, roof, chimney, brick wall, stone wall, archway, gate, fence,
            glass facade, stairway, porch, drawbridge, weathervane, gargoyle, vaulted ceiling, rose window,
            shuttered window, revolving door, spiral staircase, courtyard fountain""",
            "a building with {a}; an architectural detail: {a}",
            each=1,
        ),
    ),
    "landscape": (
        Group(
            """mountain, valley, hill, canyon, cliff, cave, volcano/volcanoes, glacier, iceberg, desert, sand dune,
            oasis/oases, forest, rainforest, jungle, meadow, prairie, savanna, swamp, marsh, lake, pond, river, stream,
            waterfall, spring, geyser, island, archipelago, lagoon, coral reef, bay, fjord, delta, coastline, ocean,
            tundra, steppe, plateau, gorge, crater, ravine, bamboo grove, moor, salt flat, hot spring, sea stack,
            natural arch, rock formation, peninsula, mudflat, heath, wheat field, snowfield""",
            "a landscape with {a}; nature: {a}; {s}; a view of {a}; a photo of {a}",
            each=1,
        ),
        Group(
            """the sky, the moon, the Milky Way, the northern lights, a comet, a galaxy, a planet with rings, the sun,
            a solar eclipse, a shooting star, the earth, a starry sky, a nebula, the full moon, a crescent moon""",
            "an image of {w}",
        ),
        Group(
            """pebbles on a shore, roots among stones, foam on a wave, ripples on water, drops on a leaf,
            dry cracked soil, fresh lava, wet sand, bark of an old tree, a bed of moss, layers of rock, ice on a pond,
            a tangle of branches, grass in the wind, a carpet of fallen leaves""",
        ),
    ),
    "country or region": (
        Group(
            """Argentina, Australia, Austria, Bangladesh, Belgium, Bolivia, Botswana, Brazil, Bulgaria, Cambodia,
            Cameroon, Canada, Chile, China, Colombia, Croatia, Cuba, Denmark, Ecuador, Egypt, Estonia, Ethiopia, Fiji,
            Finland, France, Georgia, Germany, Ghana, Greece, Guatemala, Hungary, Iceland, India, Indonesia, Iran,
            Iraq, Ireland, Israel, Italy, Jamaica, Japan, Jordan, Kenya, Laos, Latvia, Lebanon, Lithuania, Madagascar,
            Malaysia, Mali, Mexico, Mongolia, Morocco, Mozambique, Myanmar, Namibia, Nepal, New Zealand, Nigeria,
            Norway, Oman, Pakistan, Panama, Peru, Poland, Portugal, Romania, Rwanda, Saudi Arabia, Senegal, Serbia,
            Singapore, Slovenia, South Africa, South Korea, Spain, Sri Lanka, Sudan, Sweden, Switzerland, Syria,
            Tanzania, Thailand, Tunisia, Turkey, Uganda, Ukraine, Uruguay, Uzbekistan, Vietnam, Yemen, Zambia,
            Zimbabwe, the Netherlands, the Philippines, the United Kingdom, the United States, the Czech Republic""",
            "a scene from {w}; an image that shows {w}; somewhere in {w}; everyday life in {w}; a place in {w}",
            each=1,
        ),
        Group(
            """the Alps, the Himalayas, the Andes, the Sahara, the Amazon, the Nile, the Arctic, Antarctica, Siberia,
            Scandinavia, Patagonia, the Caribbean, the Mediterranean, the Rocky Mountains, the Great Plains, Hawaii,
            Tuscany, Provence, Bavaria, the Scottish Highlands, California, Alaska, Texas, the Balkans, the Outback""",
            "the region of {w}",
        ),
    ),
    "city": (
        Group(
            """Amsterdam, Athens, Bangkok, Barcelona, Beijing, Berlin, Bogotá, Boston, Brussels, Budapest,
            Buenos Aires, Cairo, Chicago, Copenhagen, Delhi, Dubai, Dublin, Edinburgh, Hanoi, Helsinki, Hong Kong,
            Istanbul, Jakarta, Jerusalem, Johannesburg, Kyoto, Lagos, Lima, Lisbon, London, Los Angeles, Madrid,
            Marrakesh, Melbourne, Milan, Montreal, Moscow, Mumbai, Munich, Nairobi, New Orleans, New York, Oslo, Paris,
            Prague, Quito, Rio de Janeiro, Rome, San Francisco, Santiago, Seoul, Shanghai, Stockholm, Sydney, Tokyo,
            Toronto, Vancouver, Venice, Vienna, Warsaw""",
            "a street in {w}; the city of {w}; a view over {w}; houses in {w}",
            each=1,
        ),
    ),
    "weather": (
        Group(
            """rain, snow, fog, hail, a thunderstorm, strong wind, a drizzle, a downpour, sleet, a blizzard,
            a clear sky, an overcast sky, scattered clouds, a rainbow, a tornado, a hurricane, a sandstorm, frost,
            mist, haze, dark storm clouds, lightning in the sky, bright sunshine, freezing rain, smog,
            a snow flurry""",
            "weather: {w}; a photo that shows {w}; an outdoor scene with {w}",
            each=1,
        ),
        Group("sunny, rainy, snowy, foggy, windy, cloudy, stormy, drizzly, frosty, hazy", "{a} day; {w} weather"),
    ),
    "season": (
        Group(
            """spring, summer, autumn, winter, early spring, late summer, late autumn, midwinter, harvest time,
            the rainy season, the dry season, January, February, March, April, May, June, July, August, September,
            October, November, December""",
            "a picture taken in {w}; a scene typical of {w}; the colors of {w}",
            each=2,
        ),
        Group(
            """bare trees under snow, the first blossoms of the year, red and golden leaves, a garden in full summer,
            icicles on a roof, fields of ripe grain, a frozen lake, children in a pile of leaves,
            sunbathers in the heat""",
        ),
    ),
    "time": (
        Group(
            """dawn, sunrise, noon, sunset, dusk, night, midnight, twilight, daybreak, rush hour, lunchtime, bedtime,
            breakfast time, teatime, closing time, the blue hour, the golden hour, low tide, high tide, nightfall""",
            "a photo taken at {w}; an image of a place at {w}",
        ),
        Group(
            """the morning, the afternoon, the evening, broad daylight, the middle of the night, the small hours,
            the late afternoon, the early morning""",
            "a scene in {w}; a photo taken in {w}",
        ),
        Group(
            """ancient times, the Middle Ages, the nineteenth century, the Victorian era, the 1920s, the 1950s,
            the 1960s, the 1970s, the 1980s, the 1990s, prehistoric times, the distant future, wartime""",
            "a scene set in {w}; an image that evokes {w}",
            each=1,
        ),
    ),
    "event": (
        Group(
            """wedding, birthday party, funeral, graduation ceremony, parade, protest march, concert, festival,
            carnival, market day, auction, press conference, business meeting, lecture, exhibition, dinner party,
            picnic, barbecue, fireworks display, circus show, theater play, opera performance, puppet show,
            fashion show, school trip, baptism, election, court trial, car accident, house fire, rescue operation,
            earthquake, flood, harvest festival, New Year's Eve party, Christmas market, tea ceremony,
            lantern festival, religious procession, military parade, job interview, family reunion, street performance,
            chess tournament, award ceremony, ship launch, rocket launch, wine tasting, dog show, science fair""",
            "people at {a}; a photo of {a}; {a}; pictures from {a}; an event: {a}",
            each=1,
        ),
    ),
}
