"""A tiny image classifier, and pictures for it."""

from pathlib import Path

import numpy as np

from tests.support.pictures import write_idx


def write_pictures(folder: Path) -> list[str]:
    """Noise in which the upper or the lower half is the brighter one."""
    arguments = ["--model=ImageClassifier", "--data=ImageClassificationData", "--data.label_names=[up,down]"]
    for seed, (split, setting, number) in enumerate(
        [("train", "path", 8), ("validation", "validation_path", 5), ("test", "test_path", 11)]
    ):
        images = np.random.default_rng(seed).integers(0, 160, (number, 6, 5)).astype(np.uint8)
        labels = [place % 2 for place in range(number)]
        for image, label in zip(images, labels, strict=True):
            image[3 * label : 3 * label + 3] += 60
        file = folder / f"{split}-images-idx3-ubyte"
        write_idx(file, images, labels)
        arguments.append(f"--data.{setting}={file}")
    return arguments


def settings(folder: Path) -> list[str]:
    sizes = ["channels=[4,8]", "depth=1", "width=16", "dropout=0.1"]
    network = [f"--model.encoder.{size}" for size in sizes]
    return [*write_pictures(folder), *network, "--model.augment.shift=1", "--model.augment.flip=true"]
