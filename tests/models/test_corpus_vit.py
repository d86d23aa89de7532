"""The corpus ViT against a slow transformer, timm's keys, and the paper's parameter counts."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrkit.models.corpus_vit import Attention, CorpusViT, MapHead
from cxrkit.models.densenet import Backbone

TINY = {"in_channels": 5, "grid": (2, 3), "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 12}
# timm.models.VisionTransformer(depth=1), in its order
TIMM_KEYS = [
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "blocks.0.norm1.weight",
    "blocks.0.norm1.bias",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.qkv.bias",
    "blocks.0.attn.proj.weight",
    "blocks.0.attn.proj.bias",
    "blocks.0.norm2.weight",
    "blocks.0.norm2.bias",
    "blocks.0.mlp.fc1.weight",
    "blocks.0.mlp.fc1.bias",
    "blocks.0.mlp.fc2.weight",
    "blocks.0.mlp.fc2.bias",
    "norm.weight",
    "norm.bias",
    "head.weight",
    "head.bias",
]


def tiny(seed=0, **changes):
    """A model with weights large enough that no part of it is idle, and a batch."""
    torch.manual_seed(seed)
    model = CorpusViT(**TINY | changes).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    h, w = model.grid
    return model, torch.randn(3, model.in_channels, h, w, dtype=torch.float64)


def slow_attention(attention, tokens):
    """Vaswani et al. 2017, one query and one head at a time."""
    T, D = tokens.shape
    d = D // attention.num_heads
    qkv = tokens @ attention.qkv.weight.T + attention.qkv.bias
    out = torch.zeros(T, D, dtype=tokens.dtype)
    for head in range(attention.num_heads):
        q, k, v = (qkv[:, part * D + head * d : part * D + (head + 1) * d] for part in range(3))
        for i in range(T):
            scores = [math.exp(float(q[i] @ k[j]) / math.sqrt(d)) for j in range(T)]
            for j in range(T):
                out[i, head * d : (head + 1) * d] += scores[j] / sum(scores) * v[j]
    return out @ attention.proj.weight.T + attention.proj.bias


def slow_norm(norm, tokens):
    centred = tokens - tokens.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def slow_vit(model, features):
    """One image (C, h, w): the paper's equations in order."""
    projection = model.patch_embed.proj.weight[:, :, 0, 0]
    cells = [
        features[:, i, j] @ projection.T + model.patch_embed.proj.bias
        for i in range(2)
        for j in range(3)
    ]
    tokens = torch.stack([model.cls_token[0, 0], *cells]) + model.pos_embed[0]
    for block in model.blocks:
        tokens = tokens + slow_attention(block.attn, slow_norm(block.norm1, tokens))
        hidden = slow_norm(block.norm2, tokens) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    tokens = slow_norm(model.norm, tokens)
    return tokens, tokens[0] @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("mlp_dim, millions", [(3072, "93.0"), (2048, "74.1")])
def test_parameters_of_the_papers_two_readings(mlp_dim, millions):
    with torch.device("meta"):
        transformer, features = CorpusViT(mlp_dim=mlp_dim), Backbone().features
    total = sum(p.numel() for part in (transformer, features) for p in part.parameters())
    assert f"{total / 1e6:.1f}" == millions
    assert total == {3072: 92_997_507, 2048: 74_110_851}[mlp_dim]


def test_paper_shapes():
    with torch.device("meta"):
        out = CorpusViT(map_head=True)(torch.zeros(2, 1024, 16, 16))
    assert {name: tuple(t.shape) for name, t in out.items()} == {
        "logits": (2, 3),
        "tokens": (2, 257, 768),
        "severity_logits": (2, 1, 256, 256),
        "severity_map": (2, 1, 256, 256),
    }


def test_keys_are_timms():
    assert list(CorpusViT(**TINY | {"depth": 1}).state_dict()) == TIMM_KEYS
    extra = set(CorpusViT(**TINY | {"depth": 1}, map_head=True).state_dict()) - set(TIMM_KEYS)
    assert extra and all(name.startswith("map_head.") for name in extra)


def test_timms_own_model_agrees():
    """Its weights load with nothing missing or foreign and give its logits."""
    vision = pytest.importorskip(
        "timm.models.vision_transformer",
        reason="timm is not installed: pip install cxrkit[weights]",
    )
    torch.manual_seed(0)
    theirs = vision.VisionTransformer(
        img_size=3,
        patch_size=1,
        in_chans=5,
        num_classes=4,
        embed_dim=8,
        depth=2,
        num_heads=2,
        mlp_ratio=1.5,
    )
    theirs = theirs.double().eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ours = CorpusViT(**TINY | {"grid": 3, "num_classes": 4}).double()
    ours.load_state_dict(theirs.state_dict())
    features = torch.randn(3, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(features)["logits"], theirs(features), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        ours(features)["tokens"], theirs.forward_features(features), rtol=1e-10, atol=1e-10
    )


def test_the_model_is_the_papers_equations():
    model, features = tiny()
    out = model(features)
    for b in range(3):
        tokens, logits = slow_vit(model, features[b])
        torch.testing.assert_close(out["tokens"][b], tokens, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(out["logits"][b], logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fused_attention_is_the_same(dtype, tolerance):
    torch.manual_seed(0)
    model = CorpusViT(**TINY, map_head=True).to(dtype).eval()
    features = torch.randn(3, 5, 2, 3, dtype=dtype)
    plain = model(features)
    assert not model.fused
    model.fused = True
    assert model.fused and all(block.attn.fused for block in model.blocks)
    for name, value in model(features).items():
        torch.testing.assert_close(value, plain[name], rtol=tolerance, atol=tolerance)
    assert CorpusViT(**TINY, fused=True).fused


def test_hooks_reach_softmax_products_and_sums():
    model, features = tiny()
    seen = {}

    def record(name):
        def hook(module, inputs, output):
            seen[name] = (inputs, output)

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    out = model(features)
    attention = seen["blocks.1.attn.softmax"][1]
    assert attention.shape == (3, 2, 7, 7)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, 7, dtype=torch.float64))
    (q, k_t), product = seen["blocks.1.attn.qk"]
    torch.testing.assert_close(product, q @ k_t)
    assert torch.equal(attention, (product / 2).softmax(-1))  # sqrt(d) = 2
    (a, v), product = seen["blocks.1.attn.av"]
    assert a is attention and v.shape == product.shape == (3, 2, 7, 4)
    for name in ("blocks.0.add1", "blocks.0.add2"):
        (a, b), total = seen[name]
        assert torch.equal(total, a + b)
    assert torch.equal(seen["select"][1], out["tokens"][:, 0])
    assert torch.equal(seen["head"][1], out["logits"])


def test_without_positions_the_class_token_sees_a_bag_of_cells():
    model, features = tiny()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    shuffled = features.flatten(2)[:, :, order].view_as(features)
    assert (model(shuffled)["logits"] - model(features)["logits"]).abs().max() > 0.01
    torch.nn.init.zeros_(model.pos_embed)
    a, b = model(features), model(shuffled)
    torch.testing.assert_close(b["logits"], a["logits"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        b["tokens"][:, 1:], a["tokens"][:, 1:][:, order], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("map_scale", [1, 8, 16])
def test_map_head(map_scale):
    model, features = tiny(map_head=True, map_scale=map_scale, embed_dim=40)
    out = model(features)
    assert out["severity_map"].shape == (3, 1, 2 * map_scale, 3 * map_scale)
    assert out["severity_map"].min() >= 0 and out["severity_map"].max() <= 1
    assert torch.equal(out["severity_map"], out["severity_logits"].sigmoid())
    assert len(model.map_head) == 1 + math.log2(map_scale)
    assert "severity_map" not in tiny()[0](features)


def test_choices_of_the_map_head_by_hand():
    """Every option changes what it says: widths, the layers of a block, values between cells."""

    def widths(head):
        return [layer.out_channels for layer in head.modules() if isinstance(layer, nn.Conv2d)]

    assert widths(MapHead(48, 16)) == [24, 16, 16, 16, 1]
    assert widths(MapHead(48, 16, widths="constant")) == [48, 48, 48, 48, 1]
    assert widths(MapHead(768, 4, widths="constant")) == [256, 256, 1]
    kinds = [type(layer).__name__ for layer in MapHead(48, 2, norm="batch")[0]]
    assert kinds == ["Upsample", "Conv2d", "BatchNorm2d", "ReLU"]
    row = torch.tensor([0.0, 4.0]).expand(1, 48, 2, 2)
    for upsampling, values in (("nearest", [0, 0, 4, 4]), ("bilinear", [0, 1, 3, 4])):
        assert MapHead(48, 2, upsampling=upsampling)[0][0](row)[0, 0, 0].tolist() == values
    for option in ("upsampling", "norm", "widths"):
        with pytest.raises(ValueError, match="cubic"):
            MapHead(48, 2, **{option: "cubic"})
    model = CorpusViT(**TINY, map_head=True, map_options={"norm": "batch"})
    assert any(name.endswith("running_mean") for name in model.state_dict())


def test_map_head_reads_patch_tokens_where_they_lie_and_no_class_token():
    model, features = tiny(map_head=True, grid=(4, 8))
    tokens = model(features)["tokens"].detach()
    cells = tokens[:, 1:].transpose(1, 2).unflatten(2, model.grid)
    torch.testing.assert_close(model.map_head(cells), model(features)["severity_logits"])
    changed = cells.clone()
    changed[:, :, 1, 5] += 1
    moved = (model.map_head(changed) != model.map_head(cells)).any(0)[0]
    rows, columns = torch.where(moved)
    assert 16 * 1 - 16 <= rows.min() and rows.max() < 16 * 2 + 16
    assert 16 * 5 - 16 <= columns.min() and columns.max() < 16 * 6 + 16
    out = model(features)["severity_logits"].sum()
    gradient = torch.autograd.grad(out, model.norm.weight)[0]
    assert out.isfinite() and gradient.abs().sum() > 0


def test_a_fresh_model_trains_in_every_weight():
    torch.manual_seed(0)
    model = CorpusViT(**TINY | {"embed_dim": 32, "num_heads": 4}, map_head=True).train()
    features = torch.randn(8, 5, 2, 3)
    out = model(features)
    assert out["severity_logits"].std() > 0.05  # four blocks in, the signal is still there
    loss = F.cross_entropy(out["logits"], torch.arange(8) % 3) + out["severity_map"].square().mean()
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all() and weight.grad.abs().sum() > 0, name
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        last = F.cross_entropy(model(features)["logits"], torch.arange(8) % 3)
        last.backward()
        optimizer.step()
    assert last < 0.1


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"num_heads": 3}, "8 is no multiple of num_heads 3"),
        ({"map_scale": 12}, "power of 2"),
        ({"map_scale": 0}, "power of 2"),
    ],
)
def test_impossible_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        CorpusViT(**TINY | bad)


@pytest.mark.parametrize("shape", [(3, 5, 3, 2), (3, 4, 2, 3), (3, 5, 6), (5, 2, 3)])
def test_another_corpus_is_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=r"have shape .*reads \(B, 5, 2, 3\)"):
        tiny()[0](torch.zeros(shape, dtype=torch.float64))


def test_attention_of_one_head_on_one_token_is_its_value():
    torch.manual_seed(0)
    attention, token = Attention(4, 1), torch.randn(1, 1, 4)
    torch.testing.assert_close(attention(token), attention.proj(attention.qkv(token)[..., 8:]))


@pytest.mark.slow
def test_two_true_size_steps():
    torch.manual_seed(0)
    model = CorpusViT(map_head=True, fused=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    before = model.head.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        out = model(torch.randn(2, 1024, 16, 16))
        loss = F.cross_entropy(out["logits"], torch.tensor([0, 2])) + out["severity_map"].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not torch.equal(before, model.head.weight)
