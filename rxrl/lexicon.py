"""Words and phrasings of the generated world: who and what lives in it, what can be told of them, and how it is said.

Values are single lowercase words and belong to one attribute only, so that an answer names a value or does not, without doubt.
In phrasings `{e}` stands for the entity, `{v}` for the value. The first telling is also the answer to a question.
"""

from __future__ import annotations

from dataclasses import dataclass

VALUES: dict[str, tuple[str, ...]] = {
    "pet": ("cat", "dog", "fish", "bird", "frog", "mouse", "horse", "rabbit", "turtle", "snake", "duck", "goat"),
    "colour": ("red", "blue", "green", "pink", "black", "white", "brown", "gold", "grey", "purple", "yellow", "beige"),
    "food": ("rice", "bread", "soup", "cheese", "pizza", "cake", "pasta", "corn", "jam", "honey", "salad", "beans"),
    "toy": ("ball", "kite", "doll", "drum", "train", "robot", "puzzle", "car", "boat", "rocket", "whistle", "swing"),
    "place": ("park", "beach", "school", "farm", "zoo", "museum", "library", "market", "castle", "lake", "station", "bakery"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    "drink": ("milk", "water", "tea", "coffee", "juice", "cocoa", "lemonade", "soda", "cider", "kefir", "broth", "syrup"),
    "job": ("baker", "doctor", "painter", "teacher", "driver", "singer", "sailor", "writer", "dancer", "gardener", "builder", "judge"),
    "friend": ("otto", "nora", "paul", "rosa", "sam", "tina", "victor", "walter", "zoe", "leo", "mia", "oscar"),
    "instrument": ("piano", "guitar", "violin", "flute", "trumpet", "harp", "cello", "banjo", "tuba", "clarinet", "fiddle", "horn"),
    "material": ("wood", "glass", "stone", "paper", "steel", "copper", "silver", "clay", "wool", "leather", "plastic", "bamboo"),
    "room": ("kitchen", "attic", "cellar", "hall", "bedroom", "bathroom", "office", "garage", "shed", "tower", "pantry", "studio"),
}

ALIASES: dict[str, tuple[str, ...]] = {
    "rabbit": ("bunny",),
    "cat": ("kitten",),
    "dog": ("puppy",),
    "horse": ("pony",),
    "grey": ("gray",),
    "gold": ("golden",),
    "car": ("automobile",),
    "beach": ("seaside",),
    "farm": ("farmyard",),
    "cellar": ("basement",),
    "doctor": ("physician",),
    "pasta": ("noodles",),
    "wood": ("timber",),
    **{word: (str(number),) for number, word in enumerate(VALUES["number"], start=2)},
}
"""Other words for a value; none of them is a value itself."""

PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Hugo", "Iris", "Jack", "Lena", "Max")
ANIMALS = tuple(
    f"the {name}" for name in ("fox", "wolf", "lion", "tiger", "monkey", "bear", "owl", "deer", "hedgehog", "squirrel", "crow", "camel")
)
THINGS = tuple(
    f"the {name}" for name in ("lamp", "chair", "box", "cup", "key", "basket", "clock", "mirror", "vase", "ladder", "bench", "ring")
)
ENTITIES: dict[str, tuple[str, ...]] = {"person": PEOPLE, "animal": ANIMALS, "thing": THINGS}


@dataclass(frozen=True, slots=True)
class Topic:
    """One attribute of one kind of entity and the ways to speak of it.

    Attributes:
        attribute: Name of the attribute, the last part of a fact's key.
        tells: Sentences that tell the fact; the first one also answers. Level 1 uses only the first.
        asks: Questions for it, without a wrapper. Level 1 uses the first two.
        unknown: What comes after "I do not know".
        story: Sentences that tell the fact inside of a story.
    """

    attribute: str
    tells: tuple[str, ...]
    asks: tuple[str, ...]
    unknown: str
    story: tuple[str, ...]


PERSON_BASICS = (
    Topic(
        "pet",
        ("{e} has a {v}.", "{e} keeps a {v} as a pet.", "The pet of {e} is a {v}."),
        ("What pet does {e} have?", "Which pet does {e} have?", "What kind of animal is the pet of {e}?"),
        "what pet {e} has",
        ("One day a {v} followed {e} home and became a dear pet.", "{e} got a {v} as a pet and was very happy."),
    ),
    Topic(
        "colour",
        ("{e} likes {v}.", "{e} likes {v} more than any other colour.", "The favourite colour of {e} is {v}."),
        ("What colour does {e} like?", "Which colour does {e} like?", "What is the favourite colour of {e}?"),
        "what colour {e} likes",
        ("{e} painted the front door {v}, the best colour of all.", "{e} always wore {v} clothes, the only colour that {e} liked."),
    ),
    Topic(
        "food",
        ("{e} eats {v}.", "{e} eats {v} every day.", "The favourite food of {e} is {v}."),
        ("What does {e} eat?", "What food does {e} eat?", "What is the favourite food of {e}?"),
        "what {e} eats",
        ("At noon {e} sat down to eat some {v}.", "{e} was hungry and ate a lot of {v}."),
    ),
    Topic(
        "toy",
        ("{e} wants a {v}.", "{e} wants a {v} to play with.", "The toy that {e} wants is a {v}."),
        ("What toy does {e} want?", "Which toy does {e} want?", "What does {e} want to play with?"),
        "what toy {e} wants",
        ("In a shop window {e} saw a {v} and wanted this toy very much.", "{e} wanted a {v} more than any other toy."),
    ),
    Topic(
        "place",
        ("{e} is at the {v}.", "{e} went to the {v}.", "You can find {e} at the {v}."),
        ("Where is {e}?", "Where is {e} now?", "Where can I find {e}?"),
        "where {e} is",
        ("Then {e} walked to the {v} and stayed there.", "In the end {e} came to the {v} and stayed there."),
    ),
    Topic(
        "number",
        ("{e} picks {v}.", "{e} picks the number {v}.", "The lucky number of {e} is {v}."),
        ("What number does {e} pick?", "Which number does {e} pick?", "What is the lucky number of {e}?"),
        "what number {e} picks",
        ("In a game of numbers {e} picked {v}.", "{e} had to pick a number and said {v}."),
    ),
)

PERSON_EXTRAS = (
    Topic(
        "drink",
        ("{e} drinks {v}.", "{e} drinks a lot of {v}.", "The favourite drink of {e} is {v}."),
        ("What does {e} drink?", "What is the favourite drink of {e}?"),
        "what {e} drinks",
        ("{e} was thirsty and asked for some {v} to drink.", "Every evening {e} drank a big cup of {v}."),
    ),
    Topic(
        "job",
        ("{e} works as a {v}.", "{e} is a {v}.", "{e} earns money as a {v}."),
        ("What is the job of {e}?", "What does {e} work as?"),
        "what job {e} has",
        ("{e} worked hard as a {v} and loved the job.", "Many years ago {e} became a {v}."),
    ),
    Topic(
        "friend",
        ("{e} has a friend called {V}.", "The best friend of {e} is {V}.", "{e} is a good friend of {V}."),
        ("Who is the best friend of {e}?", "What is the friend of {e} called?"),
        "who the best friend of {e} is",
        ("{V} came along and became the best friend of {e}.", "{e} was never alone, for {V} was a true friend."),
    ),
    Topic(
        "instrument",
        ("{e} plays the {v}.", "{e} plays the {v} in the evening.", "{e} can play the {v} very well."),
        ("What instrument does {e} play?", "Which instrument can {e} play?"),
        "what instrument {e} plays",
        ("In the evening {e} played the {v} for everybody.", "{e} learned to play the {v} and never stopped."),
    ),
)

BEINGS_FOOD = next(topic for topic in PERSON_BASICS if topic.attribute == "food")
BEINGS_DRINK = next(topic for topic in PERSON_EXTRAS if topic.attribute == "drink")
BEINGS_FRIEND = next(topic for topic in PERSON_EXTRAS if topic.attribute == "friend")
BEINGS_PLACE = next(topic for topic in PERSON_BASICS if topic.attribute == "place")
ANIMAL_TOPICS = (BEINGS_FOOD, BEINGS_DRINK, BEINGS_FRIEND, BEINGS_PLACE)

THING_TOPICS = (
    Topic(
        "colour",
        ("{e} is {v}.", "The colour of {e} is {v}.", "{e} has a nice {v} colour."),
        ("What colour is {e}?", "Which colour does {e} have?", "What is the colour of {e}?"),
        "what colour {e} is",
        ("Everybody saw at once that {e} was {v}.", "Somebody had painted {e} {v}."),
    ),
    Topic(
        "material",
        ("{e} is made of {v}.", "{e} is made of nothing but {v}.", "Somebody made {e} out of {v}."),
        ("What is {e} made of?", "What material is {e} made of?"),
        "what {e} is made of",
        ("{e} was made of {v}, like many things in those days.", "Long ago somebody had made {e} out of {v}."),
    ),
    Topic(
        "room",
        ("{e} is in the {v}.", "You can find {e} in the {v}.", "Somebody put {e} in the {v}."),
        ("Where is {e}?", "In which room is {e}?", "Where can I find {e}?"),
        "where {e} is",
        ("For many years {e} stood in the {v}.", "{e} was kept in the {v}, and nobody touched it."),
    ),
    Topic(
        "number",
        ("{e} costs {v} coins.", "The price of {e} is {v} coins.", "You have to pay {v} coins for {e}."),
        ("What does {e} cost?", "How many coins does {e} cost?", "What is the price of {e}?"),
        "what {e} costs",
        ("At the fair {e} cost {v} coins.", "Somebody had paid {v} coins for {e}."),
    ),
)

BASIC_TOPICS: dict[str, tuple[Topic, ...]] = {"person": PERSON_BASICS}
ALL_TOPICS: dict[str, tuple[Topic, ...]] = {
    "person": PERSON_BASICS + PERSON_EXTRAS,
    "animal": ANIMAL_TOPICS,
    "thing": THING_TOPICS,
}

SMALL_TALK_SHORT = (
    ("Hello.", "Hello."),
    ("Nice day.", "Yes."),
    ("It rains.", "Yes."),
    ("Thank you.", "Sure."),
    ("I am tired.", "Rest well."),
    ("That is fun.", "Yes."),
)
SMALL_TALK_LONG = (
    ("It has been raining all morning.", "I hope the sun comes out soon."),
    ("I slept very well last night.", "I am glad to hear that."),
    ("We had a long walk today.", "A long walk is good for you."),
    ("Talking with you is nice.", "Thank you, I enjoy it too."),
    ("I have to go soon.", "Take your time."),
    ("The days are getting shorter.", "Yes, winter is coming."),
    ("Can you say something kind?", "You are doing very well."),
    ("I feel a little tired now.", "Maybe a short rest will help."),
    ("The wind is strong today.", "Then it is better to stay inside."),
    ("Let us have a short break.", "Good idea, take a deep breath."),
)

PLAIN_TELL = (("{s}", "Okay."),)
LONG_TELL = (
    ("{s}", "Okay."),
    ("Please remember this. {s}", "I will remember it."),
    ("Let me tell you something. {s}", "Thank you for telling me."),
    ("You should know this. {s}", "Good to know."),
)
LONG_TOPIC = (
    ("Let us talk about something else. {s}", "Okay, let us change the topic."),
    ("Here is something different. {s}", "That is a new topic."),
)
PLAIN_OVERWRITE = (("Now {s}", "Okay."),)
LONG_OVERWRITE = (
    ("Now {s}", "Okay."),
    ("Things have changed. Now {s}", "I will remember the change."),
    ("Listen, this is new: now {s}", "Thank you for the news."),
)
PLAIN_ASK = ("{q}",)
LONG_ASK = ("{q}", "Tell me, {q}", "Do you remember? {Q}", "I have a question: {q}")
ASK_AGAIN = ("Once more, {q}", "I ask again: {q}", "I forgot it. {Q}")
UNKNOWN_ANSWER = "I do not know {u}."

STORY_TELL = (
    ("Here is a story about {e}. {s}", "What a nice story."),
    ("Let me tell you a story about {e}. {s}", "Thank you for the story."),
    ("I know a story about {e}. {s}", "I will remember this story."),
)
TELL_WRAPPERS: dict[str, tuple[tuple[str, str], ...]] = {"tell": LONG_TELL, "topic": LONG_TOPIC, "story": STORY_TELL}
STORY_REQUESTS = ("Tell me a story about {e}.", "Please tell a short story about {e}.", "I would like to hear a story about {e}.")
STORY_OPENINGS = (
    "Once upon a time there was a village by a river.",
    "A long time ago something strange happened.",
    "One bright morning it all began.",
)
STORY_CLOSINGS = ("And that is the end of the story.", "Everybody remembered that day for a long time.", "That was a good day.")
PLAIN_FILLERS = ("The sun was warm.", "It was a quiet day.", "Everybody was happy.", "Then it was time to rest.", "The wind was soft.")
