"""Relevance against the formulas of Chefer et al. written out for one image, and the methods it is
compared with against closed forms.
"""

import math

import numpy as np
import pytest
import torch

from cxrkit.explain import deep_taylor, methods
from cxrkit.models.corpus_vit import CorpusViT

TINY = {"in_channels": 5, "grid": (2, 3), "embed_dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 12}


def tiny(seed=0, std=0.4, batch=4, **changes):
    """A model with weights large enough that no part of it is idle, and a corpus without negative
    values, as ReLU leaves it.
    """
    torch.manual_seed(seed)
    model = CorpusViT(**TINY | changes).double().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=std)
    return model, torch.rand(batch, model.in_channels, *model.grid, dtype=torch.float64)


# One image by the book: no hooks, no batch, one head after another, every rule as it is printed.


def sd(a, b):
    return torch.where(
        b == 0, torch.zeros_like(b), a / torch.where(b == 0, torch.ones_like(b), b + 1e-9)
    )


def slow_linear(x, weight, R):
    """x (T, I), weight (O, I), R (T, O)."""
    out = torch.zeros_like(x)
    xp, xm, wp, wm = x.clamp(min=0), x.clamp(max=0), weight.clamp(min=0), weight.clamp(max=0)
    for o in range(len(weight)):
        z = (xp * wp[o] + xm * wm[o]).sum(-1, keepdim=True)
        out += (xp * wp[o] + xm * wm[o]) * sd(R[:, o : o + 1], z)
    return out


def slow_add(a, b, R):
    S = sd(R, a + b)
    ra, rb = a * S, b * S
    A, B = ra.sum(), rb.sum()
    fa = sd(A.abs(), A.abs() + B.abs()) * R.sum()
    fb = sd(B.abs(), A.abs() + B.abs()) * R.sum()
    return ra * sd(fa, A), rb * sd(fb, B)


def slow_clone(x, R1, R2):
    return x * (sd(R1, x) + sd(R2, x))


def slow_forward(model, features):
    """Tokens before each block and what happens inside, for one image (C, h, w); attention matrices
    are leaves of the graph.
    """

    def norm(layer, x):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight
            + layer.bias
        )

    x = (
        features.flatten(1).T @ model.patch_embed.proj.weight[:, :, 0, 0].T
        + model.patch_embed.proj.bias
    )
    x = torch.cat([model.cls_token[0], x]) + model.pos_embed[0]
    blocks, D = [], x.shape[1]
    for block in model.blocks:
        N, saved = block.attn.num_heads, {"x": x, "n1": norm(block.norm1, x)}
        q, k, v = (saved["n1"] @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(D, dim=1)
        heads = []
        for q_h, k_h, v_h in zip(*(part.split(D // N, dim=1) for part in (q, k, v)), strict=True):
            attention = (q_h @ k_h.T / math.sqrt(D // N)).softmax(-1)
            attention.requires_grad_() if attention.is_leaf else attention.retain_grad()
            heads.append((q_h, k_h, v_h, attention, attention @ v_h))
        saved |= {"heads": heads, "av": torch.cat([head[4] for head in heads], dim=1)}
        saved["attn"] = saved["av"] @ block.attn.proj.weight.T + block.attn.proj.bias
        saved["mid"] = x + saved["attn"]
        saved["n2"] = norm(block.norm2, saved["mid"])
        saved["fc1"] = saved["n2"] @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
        saved["act"] = saved["fc1"] * 0.5 * (1 + torch.erf(saved["fc1"] / math.sqrt(2)))
        saved["mlp"] = saved["act"] @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        x = saved["mid"] + saved["mlp"]
        blocks.append(saved)
    x = norm(model.norm, x)
    return x, x[0] @ model.head.weight.T + model.head.bias, blocks


def slow_block(block, saved, R):
    """R of the block's output (T, D) -> R of its input, and of its attention matrices [(T, T)]."""
    R_mid, R_mlp = slow_add(saved["mid"], saved["mlp"], R)
    R_mlp = slow_linear(
        saved["n2"], block.mlp.fc1.weight, slow_linear(saved["act"], block.mlp.fc2.weight, R_mlp)
    )
    R_x, R_attn = slow_add(saved["x"], saved["attn"], slow_clone(saved["mid"], R_mid, R_mlp))
    R_heads = slow_linear(saved["av"], block.attn.proj.weight, R_attn).split(
        saved["heads"][0][0].shape[1], dim=1
    )
    R_q, R_k, R_v, R_matrices = [], [], [], []
    for (q, k, v, attention, out), R_head in zip(saved["heads"], R_heads, strict=True):
        S = sd(R_head, out)
        R_matrix = attention * (S @ v.T) / 2
        R_v.append(v * (attention.T @ S) / 2)
        S = sd(R_matrix, q @ k.T)
        R_q.append(q * (S @ k) / 2)
        R_k.append(k * (S.T @ q) / 2)
        R_matrices.append(R_matrix)
    R_attn = slow_linear(saved["n1"], block.attn.qkv.weight, torch.cat(R_q + R_k + R_v, dim=1))
    return slow_clone(saved["x"], R_x, R_attn), R_matrices


def slow_relevance(model, features, target=None, start_layer=0, start=None):
    """Map (h, w) of one image (C, h, w) for a class, or from given start (T, D), row (T,) and
    gradients of each attention.
    """
    x, logits, blocks = slow_forward(model, features)
    if start is None:
        logits[target].backward()
        R = torch.zeros_like(x)
        one_hot = torch.zeros(1, len(logits), dtype=x.dtype)
        one_hot[0, target] = 1
        R_cls = slow_linear(x[:1], model.head.weight, one_hot)
        R[0] = x[0] * sd(R_cls[0], x[0])
        row = torch.eye(len(x), dtype=x.dtype)[0]
    else:
        R, row = start(x)
    rollout = torch.eye(len(x), dtype=x.dtype)
    with torch.no_grad():
        for layer in reversed(range(len(blocks))):
            R, matrices = slow_block(model.blocks[layer], blocks[layer], R)
            if layer >= start_layer:
                gradients = [head[3].grad for head in blocks[layer]["heads"]]
                C = torch.stack(
                    [(g * m).clamp(min=0) for g, m in zip(gradients, matrices, strict=True)]
                ).mean(0)
                rollout = rollout @ (torch.eye(len(x), dtype=x.dtype) + C)
        return (row @ rollout)[1:].view(model.grid).detach()


def slow_maps(model, inputs, target, **options):
    return torch.stack([slow_relevance(model, one, target, **options) for one in inputs])


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("start_layer", [0, 2])
def test_relevance_is_the_papers_formulas(seed, start_layer):
    model, inputs = tiny(seed)
    expected = torch.stack(
        [slow_maps(model, inputs, target, start_layer=start_layer) for target in range(3)], dim=1
    )
    assert expected.max() > 1e-4 and expected.min() >= 0
    found = torch.stack(
        [deep_taylor.relevance(model, inputs, target, start_layer) for target in range(3)], dim=1
    )
    assert ((found - expected).abs() <= 1e-9 * expected.amax((0, 2, 3), keepdim=True)).all()


def test_a_middle_sized_model_agrees_too():
    model, inputs = tiny(
        std=0.1, batch=2, in_channels=16, grid=4, embed_dim=48, num_heads=4, depth=4, mlp_dim=96
    )
    expected = slow_maps(model, inputs, 1)
    assert (deep_taylor.relevance(model, inputs, 1) - expected).abs().max() < 1e-9 * expected.max()


def worst(outputs):
    """Severity of a zone: the largest value in the left half of the map."""
    values = outputs["severity_map"][..., : outputs["severity_map"].shape[-1] // 2]
    return values.flatten(1).amax(1)


@pytest.mark.parametrize("seed", range(3))
def test_relevance_of_a_severity_is_the_formulas_too(seed):
    model, inputs = tiny(seed, map_head=True, map_scale=4)

    def start(x):
        x.retain_grad()
        cells = x[1:].T.unflatten(1, model.grid)[None]
        worst({"severity_map": model.map_head(cells).sigmoid()}).backward()
        R = (x.grad * x).detach()
        return R, R.sum(-1)

    expected = slow_maps(model, inputs, None, start=start)
    assert expected.abs().max() > 1e-4
    assert (
        deep_taylor.relevance(model, inputs, worst) - expected
    ).abs().max() < 1e-9 * expected.abs().max()


def test_a_rule_by_hand():
    """x = (1, -1, 2), two outputs: z+ of w = (1, 1, -1) is 1, of (0, -1, 1) is 1 + 2."""
    layer = torch.nn.Linear(3, 2).double()
    layer.weight.data = torch.tensor([[1.0, 1, -1], [0, -1, 1]], dtype=torch.float64)
    x = torch.tensor([[1.0, -1, 2]], dtype=torch.float64)
    found = deep_taylor.linear_rule(
        layer, (x,), layer(x), torch.tensor([[[5.0, 6]]], dtype=torch.float64)
    )
    torch.testing.assert_close(found, torch.tensor([[[5.0, 2, 4]]], dtype=torch.float64))


def test_the_sum_rule_conserves_and_shares_by_size():
    a, b, R = (
        torch.tensor([[v]], dtype=torch.float64) for v in ([3.0, 0.0], [1.0, -2.0], [4.0, 2.0])
    )
    # raw: ra = (3, 0), rb = (1, 2): A = 3, B = 3, so each gets half of 6
    found = deep_taylor.add_rule(None, (a, b), a + b, R[None])
    torch.testing.assert_close(found[0], torch.tensor([[[[3.0, 0.0]]]], dtype=torch.float64))
    torch.testing.assert_close(found[1], torch.tensor([[[[1.0, 2.0]]]], dtype=torch.float64))


@pytest.mark.parametrize("target", [[0, 1, 2], worst])
def test_relevance_is_conserved_from_block_to_block(target):
    model, inputs = tiny(0, map_head=True, map_scale=4, embed_dim=32, num_heads=4, depth=6)
    row, steps = deep_taylor.trace(model, inputs, target)
    totals = torch.stack([step.tokens.sum((-2, -1)) for step in steps])  # (depth, n, B)
    begun = row.sum(-1)
    assert totals.shape == (6, 1 if callable(target) else 3, 4) and begun.abs().min() > 1e-3
    assert ((totals - begun) / begun).abs().max() < 1e-6


def test_targets_in_all_forms_agree():
    model, inputs = tiny(1)
    maps = deep_taylor.relevance(model, inputs, [0, 1, 2])
    assert maps.shape == (4, 3, 2, 3)
    for k in range(3):
        for target in (k, lambda out, k=k: out["logits"][:, k]):
            torch.testing.assert_close(
                maps[:, k], deep_taylor.relevance(model, inputs, target), rtol=1e-9, atol=1e-15
            )
    own = torch.tensor([2, 0, 1, 1])
    picked = maps[torch.arange(4), own]
    for each in (own, own.numpy(), own.int()):
        torch.testing.assert_close(
            deep_taylor.relevance(model, inputs, each), picked, rtol=1e-9, atol=1e-15
        )
    torch.testing.assert_close(
        deep_taylor.relevance(model, inputs, (1,)), maps[:, 1:2], rtol=1e-9, atol=1e-15
    )
    torch.testing.assert_close(
        deep_taylor.relevance(model, inputs, np.int64(1)), maps[:, 1], rtol=1e-9, atol=1e-15
    )


def test_an_image_has_the_same_map_alone_and_in_a_batch():
    model, inputs = tiny(3, batch=6, map_head=True)
    for target in ([0, 1, 2], worst):
        in_a_batch = deep_taylor.relevance(model, inputs, target)
        alone = torch.cat(
            [deep_taylor.relevance(model, inputs[i : i + 1], target) for i in range(6)]
        )
        torch.testing.assert_close(in_a_batch, alone, rtol=1e-9, atol=1e-15)


def test_cells_moved_without_positions_move_the_map():
    model, inputs = tiny(4, grid=3)
    torch.nn.init.zeros_(model.pos_embed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = deep_taylor.relevance(model, inputs.flatten(2)[:, :, order].view_as(inputs), 1)
    torch.testing.assert_close(
        moved.flatten(1),
        deep_taylor.relevance(model, inputs, 1).flatten(1)[:, order],
        rtol=1e-9,
        atol=1e-15,
    )


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.bfloat16, None)])
def test_other_precisions(dtype, tolerance):
    model, inputs = tiny(5, embed_dim=32, num_heads=4)
    expected = deep_taylor.relevance(model, inputs, 0)
    found = deep_taylor.relevance(model.to(dtype), inputs.to(dtype), 0)
    assert found.dtype == dtype and found.isfinite().all()
    if tolerance:
        assert (found - expected).abs().max() < tolerance * expected.max()


@pytest.mark.parametrize("name", methods.METHODS)
def test_nothing_there_gives_finite_maps(name):
    model, inputs = tiny(map_head=True)
    for target in (1, worst):
        assert methods.METHODS[name](model, torch.zeros_like(inputs), target).isfinite().all()
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    assert methods.METHODS[name](model, inputs, 1).isfinite().all()


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_every_target_and_leaves_the_model_alone(name):
    model, inputs = tiny(1, map_head=True)
    explain = methods.METHODS[name]
    model.train().requires_grad_(False)
    model.fused = True
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = explain(model, inputs, [0, 1, 2])
    assert maps.shape == (4, 3, 2, 3) and maps.isfinite().all() and not maps.requires_grad
    own = torch.tensor([2, 0, 1, 1])
    torch.testing.assert_close(
        explain(model, inputs, own), maps[torch.arange(4), own], rtol=1e-9, atol=1e-12
    )
    assert explain(model, inputs, worst).shape == (4, 2, 3)
    assert (name in methods.CLASS_INDEPENDENT) == bool(torch.equal(maps[:, 0], maps[:, 1]))
    with torch.inference_mode():
        torch.testing.assert_close(explain(model, inputs + 0, 1), maps[:, 1], rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training and model.fused and not inputs.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_after_an_error_the_model_is_as_it_was():
    model, inputs = tiny()
    model.blocks[1].attn.fused = True
    with pytest.raises(ValueError, match="one number for each of 4 images"):
        deep_taylor.relevance(model, inputs, lambda outputs: outputs["logits"])
    assert [block.attn.fused for block in model.blocks] == [False, True, False]
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "target, message",
    [
        (3, "the model has 0 to 2"),
        ([0, -1], "the model has 0 to 2"),
        ([], "the model has"),
        (torch.tensor([0, 1]), "2 classes for a batch of 4"),
        (lambda out: out["tokens"].sum((1, 2)), "must read `logits`"),
    ],
)
def test_targets_that_do_not_exist_are_refused(target, message):
    with pytest.raises(ValueError, match=message):
        deep_taylor.relevance(*tiny(), target)


@pytest.mark.parametrize("layer", [3, -1])
def test_layers_that_do_not_exist_are_refused(layer):
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        deep_taylor.relevance(*tiny(), 0, start_layer=layer)


# The methods it is compared with


def attention_of(saved):
    return torch.stack([head[3] for head in saved["heads"]])  # (N, T, T)


def slow_rollout(model, features, target, matrix_of):
    """Class token's row in the product of matrix_of(attention, gradient) (T, T) over all blocks,
    from the last down.
    """
    _, logits, blocks = slow_forward(model, features)
    logits[target].backward()
    product = torch.eye(len(blocks[0]["x"]), dtype=torch.float64)
    for saved in reversed(blocks):
        product = product @ matrix_of(
            attention_of(saved), torch.stack([head[3].grad for head in saved["heads"]])
        )
    return product[0, 1:].view(model.grid).detach()


def identity(A):
    return torch.eye(A.shape[-1], dtype=A.dtype)


@pytest.mark.parametrize(
    "name, matrix_of",
    [
        ("rollout", lambda A, g: (A.mean(0) + identity(A)) / 2),
        ("gradient_rollout", lambda A, g: identity(A) + (A * g).clamp(min=0).mean(0)),
    ],
)
def test_rollouts(name, matrix_of):
    model, inputs = tiny(1)
    expected = torch.stack([slow_rollout(model, one, 2, matrix_of) for one in inputs])
    torch.testing.assert_close(
        methods.METHODS[name](model, inputs, 2), expected, rtol=1e-10, atol=1e-12
    )


def test_last_blocks_attention_and_its_gradcam():
    model, inputs = tiny(1)
    raw, cam = (
        methods.METHODS[name](model, inputs, 2) for name in ("raw_attention", "attention_gradcam")
    )
    for b in range(4):
        _, logits, blocks = slow_forward(model, inputs[b])
        logits[2].backward()
        heads = blocks[-1]["heads"]
        expected = sum(head[3][0, 1:] * head[3].grad[0, 1:].mean() for head in heads) / len(heads)
        torch.testing.assert_close(
            raw[b].flatten(), attention_of(blocks[-1]).mean(0)[0, 1:].detach()
        )
        torch.testing.assert_close(cam[b].flatten(), expected.clamp(min=0).detach())
    assert cam.max() > 0


def test_integrated_gradients_sum_to_the_difference():
    model, inputs = tiny(1, std=0.2)
    maps = methods.METHODS["integrated_gradients"](model, inputs, 2, steps=400)
    with torch.no_grad():
        difference = (model(inputs)["logits"] - model(0 * inputs)["logits"])[:, 2]
    torch.testing.assert_close(maps.sum((1, 2)), difference, rtol=1e-3, atol=1e-5)


def test_occlusion_one_window_at_a_time():
    model, inputs = tiny(1, grid=(3, 4))
    found = methods.METHODS["occlusion"](model, inputs, 1, window=2)
    with torch.no_grad():
        whole, drops = model(inputs)["logits"][:, 1], [[[] for _ in range(4)] for _ in range(3)]
        for top in range(2):
            for left in range(3):
                keep = torch.ones(3, 4, dtype=torch.float64)
                keep[top : top + 2, left : left + 2] = 0
                fall = whole - model(inputs * keep)["logits"][:, 1]
                for cell in [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]:
                    drops[cell[0]][cell[1]].append(fall)
    expected = torch.stack(
        [torch.stack([sum(each) / len(each) for each in line], -1) for line in drops], 1
    )
    torch.testing.assert_close(found, expected)


def test_smoothgrad_of_a_linear_value_is_its_gradient():
    """Without blocks' influence on the value (head reads a linear map of cells) noise changes
    nothing; at noise 0 never.
    """
    model, inputs = tiny(1)
    one, many = (
        methods.METHODS["smoothgrad"](model, inputs, 0, samples=n, noise=0.0) for n in (1, 5)
    )
    x = inputs.clone().requires_grad_()
    gradient = torch.autograd.grad(model(x)["logits"][:, 0].sum(), x)[0]
    torch.testing.assert_close(one, gradient.abs().sum(1))
    torch.testing.assert_close(many, one)
    assert (methods.METHODS["smoothgrad"](model, inputs, 0) - one).abs().max() > 1e-3


def test_fullgrad_token_by_token():
    model, inputs = tiny(1)
    found = methods.METHODS["fullgrad"](model, inputs, 1)
    D = model.pos_embed.shape[-1]
    for b in range(2):
        x = inputs[b].clone().requires_grad_()
        final, logits, blocks = slow_forward(model, x)
        terms = [
            (blocks[0]["x"], model.pos_embed[0] + model.patch_embed.proj.bias),
            (final, model.norm.bias),
        ]
        for block, saved in zip(model.blocks, blocks, strict=True):
            d = saved["heads"][0][0].shape[1]
            qkv = [
                (head[part], block.attn.qkv.bias[part * D + i * d : part * D + (i + 1) * d])
                for i, head in enumerate(saved["heads"])
                for part in range(3)
            ]
            terms += [
                *qkv,
                (saved["n1"], block.norm1.bias),
                (saved["attn"], block.attn.proj.bias),
                (saved["n2"], block.norm2.bias),
                (saved["fc1"], block.mlp.fc1.bias),
                (saved["mlp"], block.mlp.fc2.bias),
            ]
        at_x, *gradients = torch.autograd.grad(logits[1], [x, *(tensor for tensor, _ in terms)])
        tokens = sum(
            (g * bias).abs().sum(-1) for g, (_, bias) in zip(gradients, terms, strict=True)
        )
        expected = (at_x * x).sum(0).abs() + tokens[1:].view(model.grid)
        torch.testing.assert_close(found[b], expected.detach())


def test_captum_agrees():
    attr = pytest.importorskip(
        "captum.attr", reason="captum is not installed: pip install cxrkit[dev]"
    )

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.corpus, self.model = torch.nn.Identity(), model

        def forward(self, x):
            return self.model(self.corpus(x))["logits"]

    model, inputs = tiny(1, grid=(3, 4))
    net = Logits(model)
    cam = attr.LayerGradCam(net, net.corpus).attribute(inputs, target=2)
    torch.testing.assert_close(
        methods.METHODS["gradcam"](model, inputs, 2), cam[:, 0].clamp(min=0).detach()
    )
    path = attr.IntegratedGradients(net).attribute(
        inputs, target=2, n_steps=16, method="riemann_middle"
    )
    torch.testing.assert_close(
        methods.METHODS["integrated_gradients"](model, inputs, 2), path.sum(1).detach()
    )
    hidden = attr.Occlusion(net).attribute(inputs, sliding_window_shapes=(5, 1, 1), target=2)
    torch.testing.assert_close(
        methods.METHODS["occlusion"](model, inputs, 2, window=1),
        hidden[:, 0].double(),
        rtol=1e-5,
        atol=1e-6,
    )  # captum's is float32
    product = attr.InputXGradient(net).attribute(inputs, target=2)
    torch.testing.assert_close(
        methods.METHODS["gradient_x_input"](model, inputs, 2), product.sum(1).detach()
    )
    slope = attr.Saliency(net).attribute(inputs, target=2, abs=True)
    torch.testing.assert_close(
        methods.METHODS["smoothgrad"](model, inputs, 2, samples=1, noise=0.0), slope.sum(1)
    )


# What it is for


def planted(n, generator, grid=6, channels=8):
    """Corpora of noise; in half of them one cell, anywhere, carries a pattern -> corpus, label,
    cell number.
    """
    corpus = torch.rand(n, channels, grid * grid, generator=generator)
    label, cell = torch.arange(n) % 2, torch.randint(grid * grid, (n,), generator=generator)
    pattern = torch.tensor([1.0, 0, 1, 0, 1, 0, 1, 0])
    corpus[torch.arange(n)[label == 1], :, cell[label == 1]] = 2 * pattern
    return corpus.unflatten(2, (grid, grid)), label, cell


@pytest.mark.integration
def test_relevance_finds_a_planted_lesion_for_class_and_severity():
    torch.manual_seed(0)
    model = CorpusViT(
        in_channels=8,
        grid=6,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_dim=64,
        num_classes=2,
        map_head=True,
        map_scale=1,
    )
    generator, optimizer = (
        torch.Generator().manual_seed(0),
        torch.optim.AdamW(model.parameters(), lr=3e-3),
    )
    for _ in range(150):
        corpus, label, cell = planted(64, generator)
        out = model(corpus)
        truth = torch.nn.functional.one_hot(cell, 36) * label[:, None]
        loss = torch.nn.functional.cross_entropy(out["logits"], label)
        loss = loss + torch.nn.functional.binary_cross_entropy(
            out["severity_map"].flatten(1), truth.float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    corpus, label, cell = planted(200, generator)
    with torch.no_grad():
        assert (model(corpus)["logits"].argmax(1) == label).float().mean() > 0.95
    ill, cell = corpus[label == 1], cell[label == 1]
    found = {
        name: (explain(model, ill, 1).flatten(1).argmax(1) == cell).float().mean()
        for name, explain in methods.METHODS.items()
    }
    assert found["relevance"] > 0.5 and found["random"] < 0.15  # chance is 1 in 36
    severity = deep_taylor.relevance(model, ill, lambda out: out["severity_map"].flatten(1).amax(1))
    assert (severity.flatten(1).argmax(1) == cell).float().mean() > 0.9


def test_a_map_goes_on_to_the_pixels():
    """Without biases gradient x input shares out each cell's worth, and a pixel that no cell sees
    gets none.
    """
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(4, 6, 1, bias=False),
        torch.nn.ReLU(),
    ).double()
    image, maps = (
        torch.randn(2, 1, 8, 8, dtype=torch.float64),
        torch.zeros(2, 4, 4, dtype=torch.float64),
    )
    assert (net(image).sum(1) > 1e-3).all()
    maps[0, 1, 2], maps[1] = 3.0, torch.rand(4, 4)
    pixels = methods.through_backbone(net, image, maps)
    torch.testing.assert_close(pixels.sum((1, 2)), maps.sum((1, 2)))
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[1:5, 3:7] = True
    assert (pixels[0][~seen] == 0).all() and pixels[0][seen].abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())


def test_upsampling_keeps_values_at_the_centres():
    maps = torch.rand(2, 3, 4, 4)
    large = methods.upsample(maps, 12)
    assert large.shape == (2, 3, 12, 12)
    torch.testing.assert_close(large[..., 1::3, 1::3], maps)
    assert methods.upsample(maps, (8, 12)).shape == (2, 3, 8, 12)
