"""The small CLIP of the quickstart, and the recipe that trains it on two cores in a minute."""

from pathlib import Path

from winnow.jobs.filter_network.training import Recipe

POCKET_CONFIG = Path(__file__).parents[1] / "pocket.json"
"""The model configuration, in open_clip's format."""


def recipe(epochs: int = 6) -> Recipe:
    """The recipe of the pocket model on the clean pairs of the rendered world: 47 steps per epoch of 6,000 pairs."""
    return Recipe(
        model=str(POCKET_CONFIG),
        epochs=epochs,
        batch_size=128,
        learning_rate=1e-3,
        warmup_steps=40,
        weight_decay=0.1,
        precision="fp32",  # the same on every machine, because the quickstart checks the result
    )
