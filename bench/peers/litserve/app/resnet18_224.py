"""torchvision's ResNet-18 as a model of FedFleet, whose own is for small images."""

from fedfleet.models.torchvision_ops import ensure_torchvision_ops

ensure_torchvision_ops()
from torchvision.models import resnet18  # noqa: E402


def plugin(inputs, num_classes):
    return resnet18(num_classes=num_classes)
