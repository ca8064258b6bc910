"""The shapes of the scenes, one per noun, as polygons in two colours."""

import math

Polygon = tuple[tuple[float, float], ...]


def arc(start: float, stop: float, radius: float = 1.0, x: float = 0.0, y: float = 0.0) -> Polygon:
    """Points of a circular arc. Angles are in turns; y points down, as in pictures."""
    steps = max(4, round(abs(stop - start) * 20))
    angles = [math.tau * (start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """The corners of a rectangle."""
    return ((left, top), (right, top), (right, bottom), (left, bottom))


def _star(points: int, inner: float) -> Polygon:
    corners = [(math.tau * (i / (2 * points) - 0.25), 1.0 if i % 2 == 0 else inner) for i in range(2 * points)]
    return tuple((r * math.cos(a), r * math.sin(a)) for a, r in corners)


SHAPES: dict[str, tuple[tuple[Polygon, ...], tuple[Polygon, ...]]] = {
    # noun: (polygons in the scene's colour, polygons in the accent), in [-1, 1] × [-1, 1], y down
    "ball": ((arc(0, 1),), ()),
    "box": ((box(-0.9, -0.9, 0.9, 0.9),), (box(-0.9, -0.12, 0.9, 0.12), box(-0.12, -0.9, 0.12, 0.9))),
    "tent": ((((0, -0.9), (1, 0.85), (-1, 0.85)),), (((0, -0.1), (0.35, 0.85), (-0.35, 0.85)),)),
    "star": ((_star(5, 0.42),), ()),
    "cross": ((box(-0.32, -1, 0.32, 1), box(-1, -0.32, 1, 0.32)), ()),
    "ring": ((arc(0, 1) + arc(1, 0, 0.55),), ()),
    "kite": ((((0, -1), (0.7, -0.2), (0, 1), (-0.7, -0.2)),), (box(-0.06, -1, 0.06, 1),)),
    "moon": ((arc(0.12, 0.88, 1.0) + arc(0.8, 0.2, 0.75, 0.4),), ()),
    "house": ((box(-0.8, -0.1, 0.8, 1),), (((-1, -0.1), (0, -1), (1, -0.1)), box(-0.2, 0.35, 0.2, 1))),
    "tree": ((arc(0, 1, 0.7, 0, -0.3),), (box(-0.16, 0.35, 0.16, 1),)),
    "fish": (
        (arc(0.05, 0.95, 0.62, -0.3), ((0.2, 0), (1, -0.6), (1, 0.6))),
        (arc(0, 1, 0.12, -0.55, -0.15),),
    ),
    "boat": ((((-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)),), (((-0.1, -1), (-0.1, 0.2), (0.8, 0.2)),)),
    "mushroom": ((arc(0.5, 1, 1, 0, 0.15),), (box(-0.3, 0.15, 0.3, 1),)),
    "flag": ((box(-0.7, -0.9, 1, 0.2),), (box(-0.9, -1, -0.7, 1),)),
    "arrow": ((box(-1, -0.28, 0.2, 0.28), ((0.1, -0.85), (1, 0), (0.1, 0.85))), ()),
    "flower": (
        tuple(arc(0, 1, 0.42, 0.58 * math.cos(math.tau * i / 5), 0.58 * math.sin(math.tau * i / 5)) for i in range(5)),
        (arc(0, 1, 0.34),),
    ),
}
