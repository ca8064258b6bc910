"""Makes random scenes and writes captions for them, from one seed.

A scene is shape × colour × texture × count × companion × background. The picture shows everything that the caption
says. As in photographs, the caption does not say everything that the picture shows (place, turn, tint).
"""

from dataclasses import dataclass
from random import Random

from winnow.jobs.quickstart.shapes import SHAPES

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (210, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (245, 220, 50),
    "green": (50, 155, 60),
    "cyan": (70, 205, 215),
    "blue": (40, 75, 205),
    "purple": (130, 50, 165),
    "pink": (245, 145, 190),
    "brown": (125, 75, 40),
    "white": (245, 245, 242),
    "gray": (140, 142, 146),
    "black": (28, 28, 32),
}
PLURALS = {"box": "boxes", "cross": "crosses", "fish": "fish"}
NUMBERS = ("no", "one", "two", "three", "four")
SUBJECT_SIZES = {"small": 0.62, "big": 1.0}
TEXTURES = ("plain", "striped", "spotted")
SCATTERS = ("", "confetti", "bubbles", "leaves")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


GROUNDS: dict[str, str] = {
    "plain": "on a plain {} background",
    "stripes": "in front of {} stripes",
    "checks": "on a {} checkerboard",
    "dots": "over {} dots",
    "hills": "on the hills under a {} sky",
    "sea": "by the sea under a {} sky",
    "bricks": "against a {} brick wall",
    "rays": "in {} rays of light",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a cluster of the pool. variety: 0 gives nearly the same picture every time, 2 crowded scenes."""

    noun: str
    ground: str
    variety: int

    @property
    def name(self) -> str:
        """Short name of the concept, as truth tables show it."""
        return f"{self.noun} {self.ground}"


NOUNS = tuple(SHAPES)
SUBJECTS: tuple[Subject, ...] = tuple(
    # 7 and 8 are coprime: both halves go through all grounds, and each noun gets two different ones
    Subject(noun, list(GROUNDS)[(7 * i + 3 * half) % len(GROUNDS)], (i + half) % 3)
    for half in range(2)
    for i, noun in enumerate(NOUNS)
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a caption can say about one picture. companion: (noun, colour, relation) or None."""

    concept: Subject
    colour: str
    ground_colour: str
    size: str
    texture: str
    count: int
    scatter: str
    companion: tuple[str, str, str] | None


def imagine(concept: Subject, rng: Random) -> Scene:
    """A random scene of the concept. With more variety, more of the scene is random."""
    still, crowded = concept.variety == 0, concept.variety == 2
    names = sorted(COLOURS)
    # a concept of variety 0 has four ground colours, as product photographs have few backdrops
    ground_colour = rng.choice(Random(concept.name).sample(names, 4) if still else names)
    colour = rng.choice([name for name in names if name != ground_colour])
    companion = None
    if rng.random() < (0.0, 0.4, 0.8)[concept.variety]:
        other = rng.choice([noun for noun in NOUNS if noun != concept.noun])
        tint = rng.choice([name for name in names if name != ground_colour])
        companion = (other, tint, rng.choice(list(RELATIONS)))
    return Scene(
        concept,
        colour,
        ground_colour,
        size=rng.choice(list(SUBJECT_SIZES)),
        texture="plain" if still else rng.choice(TEXTURES),
        count=1 if still else rng.randint(1, 4 if crowded else 2),
        scatter=rng.choice(SCATTERS) if crowded else "",
        companion=companion,
    )


def describe(scene: Scene, rng: Random) -> str:
    """A true caption of the scene, by one of several templates; at least five words."""
    noun = scene.concept.noun
    texture = "" if scene.texture == "plain" else scene.texture
    looks = [word for word in (scene.size, texture, scene.colour) if word]
    if scene.count == 1:
        subject = f"a {' '.join(looks)} {noun}"
    else:
        subject = f"{NUMBERS[scene.count]} {' '.join(looks)} {PLURALS.get(noun, noun + 's')}"
    if scene.companion:
        other, tint, relation = scene.companion
        subject += f" {relation} a {tint} {other}"
    place = GROUNDS[scene.concept.ground].format(scene.ground_colour)
    scatter = f" with {scene.scatter}" if scene.scatter else ""
    template = rng.choice(("{0} {1}{2}", "a picture of {0} {1}{2}", "{1}, {0}{2}", "{0}{2} {1}", "we see {0}{2}, {1}"))
    return template.format(subject, place, scatter)
