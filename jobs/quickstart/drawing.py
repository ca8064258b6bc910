"""Draws scenes as pictures. Place, turn and tint, which no caption mentions, are random."""

import io
import math
from random import Random

from PIL import Image, ImageDraw

from winnow.jobs.quickstart.scenes import COLOURS, RELATIONS, SUBJECT_SIZES, SUBJECTS, Colour, Scene, imagine
from winnow.jobs.quickstart.shapes import SHAPES, Polygon, arc, box


def jpeg(rng: Random) -> bytes:
    """A JPEG file of a random scene."""
    buffer = io.BytesIO()
    draw(imagine(rng.choice(SUBJECTS), rng), rng).save(buffer, "JPEG")
    return buffer.getvalue()


def draw(scene: Scene, rng: Random) -> Image.Image:
    """RGB picture of the scene, with sides of 96 to 160 pixels and all objects inside the centred square."""
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
        # "a left of b": the relation places a, so b goes to the opposite side
        x, y = (-0.33 * short * side + rng.uniform(-0.03, 0.03) * short for side in RELATIONS[relation])
        colour = _tint(COLOURS[tint], rng)
        _draw_shape(pencil, other, colour, "plain", middle_x + x, middle_y + y, 0.15 * short, rng)
    return image


def _layout(scene: Scene, short: int, rng: Random) -> tuple[float, list[tuple[float, float]]]:
    """Radius of the main shapes and their offsets from the middle, in pixels."""
    radius = 0.36 * short * SUBJECT_SIZES[scene.size] * rng.uniform(0.92, 1.08)
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
            paint(box(left, -0.55, left + 0.2, 0.55), accent)
    elif texture == "spotted":
        for u, v in ((-0.4, -0.2), (0.35, -0.3), (0.0, 0.15), (-0.35, 0.5), (0.4, 0.45)):
            paint(arc(0, 1, 0.15, u, v), accent)
    for polygon in accents:
        paint(polygon, accent)


def _draw_ground(image: Image.Image, ground: str, base: Colour, rng: Random) -> None:
    """Draw the pattern of the background over its flat colour `base`, with random step and phase."""
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
    """The colour, changed by at most 14 in each channel, so that its name still fits."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-14, 14))) for channel in colour)
    return red, green, blue
