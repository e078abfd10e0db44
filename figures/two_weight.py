"""``two-weight``: the loss goes to zero, the distance does not."""

from . import modresnet


def draw():
    return modresnet.draw("two-weight")
