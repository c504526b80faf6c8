from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest
import torch

from fedfleet.errors import RecipeInvalid, Unavailable
from fedfleet.models.catalog import build, build_initial
from fedfleet.models.config import MobileNetOptions
from fedfleet.models.mobilenet import MobileNet_V3_Small_Weights

# By name, since it can be imported only after our module has made it fit this torch.
mobilenet_v3_small = pkgutil.resolve_name("torchvision.models:mobilenet_v3_small")
CIFAR = MobileNetOptions(stem="cifar")
IMAGENET = MobileNetOptions(stem="imagenet")
PRETRAINED = MobileNetOptions(stem="imagenet", pretrained=True)
HEAD = ("classifier.3.weight", "classifier.3.bias")


def test_mobilenet_cifar_keeps_a_four_by_four_map(make_card):
    model = build(make_card("mobilenet_v3_small", CIFAR, (3, 32, 32)))

    maps = model.get_submodule("features")(torch.zeros(2, 3, 32, 32))

    assert maps.shape == (2, 576, 4, 4)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_mobilenet_imagenet_is_torchvisions_network(make_card):
    torch.manual_seed(3)
    model = build(make_card("mobilenet_v3_small", IMAGENET, (3, 64, 64), classes=7))

    torch.manual_seed(3)
    theirs = mobilenet_v3_small(num_classes=7).state_dict()

    assert list(model.state_dict()) == list(theirs)
    assert all(torch.equal(ours, theirs[name]) for name, ours in model.state_dict().items())


def test_mobilenet_stems_differ_in_strides_alone(make_card):
    torch.manual_seed(3)
    cifar = build(make_card("mobilenet_v3_small", CIFAR, (3, 32, 32)))
    torch.manual_seed(3)
    imagenet = build(make_card("mobilenet_v3_small", IMAGENET, (3, 32, 32)))

    theirs = imagenet.state_dict()
    strides = {
        name: (module.stride, imagenet.get_submodule(name).stride)
        for name, module in cifar.named_modules()
        if isinstance(module, torch.nn.Conv2d)
        and module.stride != imagenet.get_submodule(name).stride
    }

    assert all(torch.equal(ours, theirs[name]) for name, ours in cifar.state_dict().items())
    assert list(strides.values()) == [((1, 1), (2, 2))] * 2
    assert list(strides) == ["features.0.0", "features.1.block.0.0"]


def test_mobilenet_refuses_grey_images(make_card):
    with pytest.raises(RecipeInvalid, match="takes 3 channels, the data set has 1"):
        build(make_card("mobilenet_v3_small", CIFAR, (1, 32, 32)))


def test_build_never_asks_for_pretrained_weights(make_card, unreachable):
    model = build(make_card("mobilenet_v3_small", PRETRAINED, (3, 32, 32)))

    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_pretrained_weights_that_cannot_be_fetched_are_unavailable(make_card, unreachable):
    with pytest.raises(Unavailable, match="pretrained = true: torchvision's weights") as caught:
        build_initial(make_card("mobilenet_v3_small", PRETRAINED, (3, 32, 32)))

    assert caught.value.code == "UNAVAILABLE"


def test_pretrained_weights_replace_all_but_the_last_layer(make_card, unreachable):
    """The file in torch's cache is what a download leaves; its weights are random ones here."""
    torch.manual_seed(1)
    cached = mobilenet_v3_small(num_classes=1000).state_dict()
    checkpoints = unreachable / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    name = Path(MobileNet_V3_Small_Weights.IMAGENET1K_V1.url).name
    torch.save(cached, checkpoints / name)

    card = make_card("mobilenet_v3_small", PRETRAINED, (3, 32, 32), classes=7)
    state = build_initial(card).state_dict()

    assert state[HEAD[0]].shape == (7, 1024)
    assert all(torch.equal(state[key], cached[key]) for key in cached if key not in HEAD)


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch cache, and a proxy where nobody listens: no network, on any machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path
