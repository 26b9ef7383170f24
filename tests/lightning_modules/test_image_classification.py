"""The image classifier keeps the contract with either network, and changes pictures in training only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightrail.lightning_modules.networks.augmentation import Augmentation, AugmentConfig
from lightrail.lightning_modules.networks.images import ConvNetConfig, ImageEncoderConfig, MlpConfig
from lightrail.project.basics.errors import ConfigError
from lightrail.testing.contract import NetworkContract, TaskContract
from tests.support.tasks import image_classification
from tests.support.tasks.image_classification import write_pictures


class TestImageClassifierWithLayers(NetworkContract):
    def settings(self, folder: Path) -> list[str]:
        network = ["--model.encoder=MlpConfig", "--model.encoder.widths=[16,8]", "--model.dropout=0.1"]
        return [*write_pictures(folder), *network]

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.dropout=0"]


class TestImageClassifierWithConvolutions(TaskContract):
    def settings(self, folder: Path) -> list[str]:
        return image_classification.settings(folder)

    def without_dropout(self) -> list[str]:
        return ["--model.encoder.dropout=0", "--model.augment.shift=0", "--model.augment.flip=false"]


def test_every_picture_is_moved_on_its_own_and_its_edge_is_repeated() -> None:
    torch.manual_seed(0)
    picture = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 4, 3)
    images = torch.cat([picture, picture + 100], dim=1).expand(200, 2, 4, 3)  # two channels that move together
    moved = Augmentation(AugmentConfig(shift=1), (2, 4, 3))(images)
    places = [torch.arange(size) for size in (4, 3)]
    possible = {
        tuple(picture[0, 0][(places[0] + down).clamp(0, 3)][:, (places[1] + right).clamp(0, 2)].flatten().tolist())
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    assert moved.dtype == torch.uint8
    assert {tuple(own.flatten().tolist()) for own in moved[:, 0]} == possible
    assert torch.equal(moved[:, 1], moved[:, 0] + 100)


def test_half_of_the_pictures_are_mirrored() -> None:
    torch.manual_seed(0)
    images = torch.arange(12).reshape(1, 1, 4, 3).expand(400, 1, 4, 3)
    changed = Augmentation(AugmentConfig(flip=True), (1, 4, 3))(images)
    is_mirrored = (changed == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(changed[~is_mirrored], images[~is_mirrored])
    assert 150 < int(is_mirrored.sum()) < 250


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (AugmentConfig(shift=1), lambda images: images.roll(1, dims=-1)),
        (AugmentConfig(flip=True), lambda images: images.flip(-1)),
    ],
    ids=["shift", "flip"],
)
def test_a_network_knows_changed_pictures_when_it_was_trained_with_such(
    config: AugmentConfig, change: Callable[[Tensor], Tensor]
) -> None:
    without, with_changes = (share_known(own, change) for own in (AugmentConfig(), config))
    assert with_changes > without + 0.2
    assert with_changes > 0.9


def share_known(config: AugmentConfig, change: Callable[[Tensor], Tensor]) -> float:
    """Accuracy on changed pictures of a network trained on the pictures as they are: one bright pixel in each row, in
    the second column from the left, and in half of the pictures a row without.
    """
    torch.manual_seed(0)
    labels = torch.arange(256) % 2
    images = 0.1 * torch.rand(256, 1, 6, 6)
    images[:, :, :, 1] += 1
    gaps = torch.randint(0, 6, (256,))
    images[torch.arange(256), 0, gaps, 1] -= labels
    augmentation = Augmentation(config, (1, 6, 6))
    network = torch.nn.Sequential(MlpConfig(widths=[64], dropout=0.0).build((1, 6, 6)), torch.nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(network(augmentation(images)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float((network(change(images)).argmax(-1) == labels).float().mean())


def test_a_picture_is_left_alone_in_an_evaluation() -> None:
    images = torch.arange(12).reshape(1, 1, 4, 3)
    augmentation = Augmentation(AugmentConfig(shift=2, flip=True), (1, 4, 3)).eval()
    assert torch.equal(augmentation(images), images)


@pytest.mark.parametrize("shift", [-1, 3])
def test_a_shift_out_of_the_picture_is_refused(shift: int) -> None:
    wrong = rf"augment\.shift is {shift}\. Give a number from 0 to below .* 4 x 3|shift: expected .* found {shift}"
    with pytest.raises(ConfigError, match=wrong):
        Augmentation(AugmentConfig(shift=shift), (1, 4, 3))


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (MlpConfig, {"widths": []}, r"widths: expected a list .* of length 1 or more, found \[\]"),
        (MlpConfig, {"dropout": 1.0}, r"dropout: expected a number of at least 0 and below 1, found 1\.0"),
        (ConvNetConfig, {"channels": [4, 0]}, r"channels: expected a list \(each a whole number .*, found \[4, 0\]"),
        (ConvNetConfig, {"depth": 0}, r"depth: expected a whole number of at least 1, found 0"),
        (ConvNetConfig, {"width": 0}, r"width: expected a whole number of at least 1, found 0"),
    ],
)
def test_sizes_of_networks_that_are_none_are_refused(
    network: type[ImageEncoderConfig], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{network.__name__}\.{message}"):
        network(**settings)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 2), (1, 28, 28)])
def test_a_convolutional_network_takes_pictures_of_any_size(shape: tuple[int, int, int]) -> None:
    network = ConvNetConfig(channels=[4, 4, 4], depth=2, width=6).build(shape)
    assert network(torch.zeros(2, *shape)).shape == (2, 6)


def test_the_size_of_a_signal_is_kept_through_the_layers() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 1, 16, 16)
    for config in (MlpConfig(widths=[256] * 8), ConvNetConfig(channels=[32, 32], depth=4, width=256)):
        states = config.build((1, 16, 16)).eval()(images).detach()
        assert 0.2 < float(states.square().mean()) < 5
