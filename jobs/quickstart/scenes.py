"""Draws random scenes and writes captions for them, from one seed.

A scene is shape × colour × texture × count × companion × background. What the caption says is visible; much
of what is visible (place, turn, tint) is not in the caption, as in photographs.
"""

import io
import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Polygon = tuple[tuple[float, float], ...]

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
SIZES = {"small": 0.62, "big": 1.0}
TEXTURES = ("plain", "striped", "spotted")
SCATTERS = ("", "confetti", "bubbles", "leaves")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def _arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Polygon:
    """Points of a circular arc, angles in turns; y points down as in pictures."""
    steps = max(4, round(abs(stop - start) * 20))
    angles = [math.tau * (start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles)


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _star(points: int, inner: float) -> Polygon:
    corners = [(math.tau * (i / (2 * points) - 0.25), 1.0 if i % 2 == 0 else inner) for i in range(2 * points)]
    return tuple((r * math.cos(a), r * math.sin(a)) for a, r in corners)


SHAPES: dict[str, tuple[tuple[Polygon, ...], tuple[Polygon, ...]]] = {
    # noun: (polygons in the scene's colour, polygons in the accent), in [-1, 1] × [-1, 1], y down
    "ball": ((_arc(0, 1),), ()),
    "box": ((_box(-0.9, -0.9, 0.9, 0.9),), (_box(-0.9, -0.12, 0.9, 0.12), _box(-0.12, -0.9, 0.12, 0.9))),
    "tent": ((((0, -0.9), (1, 0.85), (-1, 0.85)),), (((0, -0.1), (0.35, 0.85), (-0.35, 0.85)),)),
    "star": ((_star(5, 0.42),), ()),
    "cross": ((_box(-0.32, -1, 0.32, 1), _box(-1, -0.32, 1, 0.32)), ()),
    "ring": ((_arc(0, 1) + _arc(1, 0, 0.55),), ()),
    "kite": ((((0, -1), (0.7, -0.2), (0, 1), (-0.7, -0.2)),), (_box(-0.06, -1, 0.06, 1),)),
    "moon": ((_arc(0.12, 0.88, 1.0) + _arc(0.8, 0.2, 0.75, 0.4),), ()),
    "house": ((_box(-0.8, -0.1, 0.8, 1),), (((-1, -0.1), (0, -1), (1, -0.1)), _box(-0.2, 0.35, 0.2, 1))),
    "tree": ((_arc(0, 1, 0.7, 0, -0.3),), (_box(-0.16, 0.35, 0.16, 1),)),
    "fish": (
        (_arc(0.05, 0.95, 0.62, -0.3), ((0.2, 0), (1, -0.6), (1, 0.6))),
        (_arc(0, 1, 0.12, -0.55, -0.15),),
    ),
    "boat": ((((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)),), (((-0.1, -1), (-0.1, 0.2), (0.8, 0.2)),)),
    "mushroom": ((_arc(0.5, 1, 1, 0, 0.15),), (_box(-0.3, 0.15, 0.3, 1),)),
    "flag": ((_box(-0.7, -0.9, 1, 0.2),), (_box(-0.9, -1, -0.7, 1),)),
    "arrow": ((_box(-1, -0.28, 0.2, 0.28), ((0.1, -0.85), (1, 0), (0.1, 0.85))), ()),
    "flower": (
        tuple(_arc(0, 1, 0.42, 0.58 * math.cos(math.tau * i / 5), 0.58 * math.sin(math.tau * i / 5)) for i in range(5)),
        (_arc(0, 1, 0.34),),
    ),
}
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
class Concept:
    """The subject of a cluster of the pool; variety 0 gives nearly the same picture every time, 2 crowded scenes."""

    noun: str
    ground: str
    variety: int

    @property
    def name(self) -> str:
        """Short name of the concept, as truth tables show it."""
        return f"{self.noun} {self.ground}"


NOUNS = tuple(SHAPES)
CONCEPTS: tuple[Concept, ...] = tuple(
    # 7 is prime to 8: both halves walk through all grounds, and a noun meets two different ones
    Concept(noun, list(GROUNDS)[(7 * i + 3 * half) % len(GROUNDS)], (i + half) % 3)
    for half in range(2)
    for i, noun in enumerate(NOUNS)
)


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a caption can say about one picture. companion: (noun, colour, relation) or None."""

    concept: Concept
    colour: str
    ground_colour: str
    size: str
    texture: str
    count: int
    scatter: str
    companion: tuple[str, str, str] | None


def imagine(concept: Concept, rng: Random) -> Scene:
    """One random scene of the concept; more variety leaves more of the scene open."""
    still, crowded = concept.variety == 0, concept.variety == 2
    names = sorted(COLOURS)
    # a still concept has four ground colours of its own, as product photographs have few backdrops
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
        size=rng.choice(list(SIZES)),
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


def jpeg(rng: Random) -> bytes:
    """A JPEG file of some scene."""
    buffer = io.BytesIO()
    draw(imagine(rng.choice(CONCEPTS), rng), rng).save(buffer, "JPEG")
    return buffer.getvalue()


def draw(scene: Scene, rng: Random) -> Image.Image:
    """RGB picture of the scene, sides 96 to 160 pixels, its objects inside the centred square."""
    short = rng.randint(96, 128)
    long = round(short * rng.uniform(1.0, 1.25))
    width, height = (long, short) if rng.random() < 0.6 else (short, long)
    base = _tint(COLOURS[scene.ground_colour], rng)
    image = Image.new("RGB", (width, height), base)
    pencil = ImageDraw.Draw(image)
    _draw_ground(image, scene.concept.ground, base, rng)
    if scene.scatter:
        _draw_scatter(pencil, width, height, scene.scatter, rng)
    radius, places = _layout(scene, short, rng)
    middle_x, middle_y = width / 2, height / 2
    body = _tint(COLOURS[scene.colour], rng)
    for x, y in places:
        _draw_shape(pencil, scene.concept.noun, body, scene.texture, middle_x + x, middle_y + y, radius, rng)
    if scene.companion:
        other, tint, relation = scene.companion
        # "a left of b": a is on the left, so b stands on the other side
        x, y = (-0.33 * short * side + rng.uniform(-0.03, 0.03) * short for side in RELATIONS[relation])
        colour = _tint(COLOURS[tint], rng)
        _draw_shape(pencil, other, colour, "plain", middle_x + x, middle_y + y, 0.15 * short, rng)
    return image


def _layout(scene: Scene, short: int, rng: Random) -> tuple[float, list[tuple[float, float]]]:
    """Radius of the main shapes and their offsets from the middle, in pixels."""
    radius = 0.36 * short * SIZES[scene.size] * rng.uniform(0.92, 1.08)
    x, y = rng.uniform(-0.08, 0.08) * short, rng.uniform(-0.08, 0.08) * short
    if scene.companion:
        side_x, side_y = RELATIONS[scene.companion[2]]
        x, y, radius = x + 0.2 * short * side_x, y + 0.2 * short * side_y, 0.72 * radius
    if scene.count == 1:
        return radius, [(x, y)]
    radius *= 0.62
    reach, turn = max(radius * 1.15, 0.17 * short), rng.random()
    angles = [math.tau * (turn + i / scene.count) for i in range(scene.count)]
    return radius, [(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles]


def _draw_shape(
    pencil: ImageDraw.ImageDraw,
    noun: str,
    body: Colour,
    texture: str,
    x: float,
    y: float,
    radius: float,
    rng: Random,
) -> None:
    turn = rng.uniform(-0.3, 0.3)
    cos, sin = radius * math.cos(turn), radius * math.sin(turn)
    accent = _shade(body, 0.55 if sum(body) > 240 else 2.6)

    def paint(polygon: Polygon, colour: Colour) -> None:
        pencil.polygon([(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in polygon], fill=colour)

    bodies, accents = SHAPES[noun]
    for polygon in bodies:
        paint(polygon, body)
    if texture == "striped":
        for left in (-0.5, -0.1, 0.3):
            paint(_box(left, -0.55, left + 0.2, 0.55), accent)
    elif texture == "spotted":
        for u, v in ((-0.4, -0.2), (0.35, -0.3), (0.0, 0.15), (-0.35, 0.5), (0.4, 0.45)):
            paint(_arc(0, 1, 0.15, u, v), accent)
    for polygon in accents:
        paint(polygon, accent)


def _draw_ground(image: Image.Image, ground: str, base: Colour, rng: Random) -> None:
    """Pattern of the background over its flat colour `base`; its step and phase are free."""
    pencil = ImageDraw.Draw(image)
    width, height = image.size
    second = _shade(base, 0.7 if sum(base) > 240 else 2.0)
    step = rng.randint(12, 20)
    phase = rng.randint(0, step)
    columns, rows = range(phase - 2 * step, width + step, step), range(phase - 2 * step, height + step, step)
    if ground == "stripes":
        for left in columns[::2]:
            pencil.rectangle((left, 0, left + step, height), fill=second)
    elif ground == "checks":
        for row, top in enumerate(rows):
            for left in columns[row % 2 :: 2]:
                pencil.rectangle((left, top, left + step - 1, top + step - 1), fill=second)
    elif ground == "dots":
        for top in rows:
            for left in columns:
                pencil.ellipse((left, top, left + step / 2, top + step / 2), fill=second)
    elif ground == "bricks":
        for row, top in enumerate(rows):
            pencil.line((0, top, width, top), fill=second, width=2)
            for left in columns[row % 2 :: 2]:
                pencil.line((left, top, left, top + step), fill=second, width=2)
    elif ground == "rays":
        spread = max(width, height)
        for i in range(8):
            wedge = [(width / 2, height / 2)]
            for angle in (math.tau * (phase / 40 + i / 8), math.tau * (phase / 40 + (i + 0.5) / 8)):
                wedge.append((width / 2 + spread * math.cos(angle), height / 2 + spread * math.sin(angle)))
            pencil.polygon(wedge, fill=second)
    elif ground == "hills":
        crest = height * rng.uniform(0.6, 0.75)
        for x, tint in ((0.2, (70, 130, 60)), (0.8, (95, 160, 70))):
            middle = width * (x + rng.uniform(-0.1, 0.1))
            pencil.ellipse((middle - width * 0.6, crest, middle + width * 0.6, crest + height), fill=tint)
    elif ground == "sea":
        shore = round(height * rng.uniform(0.55, 0.7))
        pencil.rectangle((0, shore, width, height), fill=(25, 95, 140))
        for line in range(shore + 5, height, 8):
            pencil.line((rng.randint(0, width // 2), line, rng.randint(width // 2, width), line), fill=(120, 180, 210))


def _draw_scatter(pencil: ImageDraw.ImageDraw, width: int, height: int, scatter: str, rng: Random) -> None:
    for _ in range(rng.randint(18, 30)):
        x, y, reach = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(2, 4.5)
        if scatter == "confetti":
            pencil.rectangle((x, y, x + reach, y + reach), fill=rng.choice(list(COLOURS.values())))
        elif scatter == "bubbles":
            pencil.ellipse((x - reach, y - reach, x + reach, y + reach), outline=(250, 250, 255), width=1)
        else:
            pencil.ellipse((x, y, x + 2.5 * reach, y + reach), fill=rng.choice(((170, 100, 30), (90, 120, 40))))


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(channel * factor)) for channel in colour)
    return red, green, blue


def _tint(colour: Colour, rng: Random) -> Colour:
    """The colour within ±14 in each channel: its name still fits."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-14, 14))) for channel in colour)
    return red, green, blue
