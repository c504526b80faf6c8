"""The network of pfl-research's CIFAR-10 benchmark, for both systems: 1,626,442 parameters.

Two 3x3 convolutions without padding (32, 64), a 2x2 max-pool, dropout, a hidden layer of 128,
dropout (``simple_cnn`` of its ``benchmarks/model/pytorch/cnn.py``; images are (B, C, H, W) here).
"""

from torch import nn


def layers(channels: int, side: int, classes: int) -> list[nn.Module]:
    """The layers for square images."""
    maps = ((side - 4) // 2) ** 2 * 64
    return [
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(maps, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    ]


def plugin(inputs, num_classes):
    """The same as a model of FedFleet (entry point group ``fedfleet.models``)."""
    return nn.Sequential(*layers(inputs.channels, inputs.height, num_classes))
