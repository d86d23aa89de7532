"""AttnLRP against its rules written out layer by layer for one image, against what it must
conserve, and against the public implementation of its authors.
"""

import pytest
import torch

from cxrkit.explain import attention_lrp, methods
from tests.explain.test_relevance import slow_forward, tiny, worst


def ratio(R, z):
    return torch.where(z == 0, torch.zeros_like(z), R / torch.where(z == 0, 1, z))


def slow_linear(x, weight, z, R):
    """x (T, I), weight (O, I), output z and its R (T, O): R_i = sum_o x_i w_oi R_o / z_o."""
    out = torch.zeros_like(x)
    for o in range(len(weight)):
        out += x * weight[o] * ratio(R[:, o], z[:, o])[:, None]
    return out


def slow_norm(layer, x, y, R):
    """y_j = sum_i x_i (1[i = j] - 1/D) w_j / sd + b_j, where sd counts as a constant."""
    D = x.shape[1]
    sd = (x.var(1, unbiased=False, keepdim=True) + layer.eps).sqrt()
    S = ratio(R, y) * layer.weight / sd
    return x * (S - S.sum(1, keepdim=True) / D)


def slow_attention(block, saved, R):
    """R of what the projection reads (T, D) -> R of q, k and v side by side (T, 3 D)."""
    R_q, R_k, R_v = [], [], []
    d = saved["heads"][0][0].shape[1]
    for (q, k, v, attention, out), R_head in zip(saved["heads"], R.split(d, dim=1), strict=True):
        S = ratio(R_head, out)
        R_matrix = attention * (S @ v.T) / 2
        R_v.append(v * (attention.T @ S) / 2)
        scores = q @ k.T / d**0.5
        R_scores = scores * (R_matrix - attention * R_matrix.sum(1, keepdim=True))  # softmax
        S = ratio(R_scores, scores) / d**0.5
        R_q.append(q * (S @ k) / 2)
        R_k.append(k * (S.T @ q) / 2)
    return torch.cat(R_q + R_k + R_v, dim=1)


def slow_block(block, saved, x_out, R):
    """R of the block's output (T, D) -> R of its input."""
    R_mlp = saved["mlp"] * ratio(R, x_out)
    R_mid = saved["mid"] * ratio(R, x_out)
    R_mlp = slow_linear(saved["act"], block.mlp.fc2.weight, saved["mlp"], R_mlp)
    R_mlp = slow_linear(saved["n2"], block.mlp.fc1.weight, saved["fc1"], R_mlp)  # GELU: identity
    R_mid = R_mid + slow_norm(block.norm2, saved["mid"], saved["n2"], R_mlp)
    R_x = saved["x"] * ratio(R_mid, saved["mid"])
    R_attn = saved["attn"] * ratio(R_mid, saved["mid"])
    R_attn = slow_linear(saved["av"], block.attn.proj.weight, saved["attn"], R_attn)
    R_qkv = slow_attention(block, saved, R_attn)
    qkv = saved["n1"] @ block.attn.qkv.weight.T + block.attn.qkv.bias
    R_n1 = slow_linear(saved["n1"], block.attn.qkv.weight, qkv, R_qkv)
    return R_x + slow_norm(block.norm1, saved["x"], saved["n1"], R_n1)


def slow_attnlrp(model, features, start):
    """Map (h, w) of one image (C, h, w); start: tokens (T, D) and logits -> R of the tokens."""
    tokens, logits, blocks = slow_forward(model, features)
    R = start(tokens, logits)
    outputs = [*(saved["x"] for saved in blocks[1:])]
    last = blocks[-1]["mid"] + blocks[-1]["mlp"]
    with torch.no_grad():
        R = slow_norm(model.norm, last, tokens, R)
        for block, saved, x_out in reversed(
            list(zip(model.blocks, blocks, [*outputs, last], strict=True))
        ):
            R = slow_block(block, saved, x_out, R)
        cells = features.flatten(1).T  # (h*w, C)
        x_in = (cells @ model.patch_embed.proj.weight[:, :, 0, 0].T) + model.patch_embed.proj.bias
        embedded = blocks[0]["x"][1:]
        R = slow_linear(
            cells, model.patch_embed.proj.weight[:, :, 0, 0], x_in, x_in * ratio(R[1:], embedded)
        )
    return R.sum(1).view(model.grid)


def of_class(model, k):
    def start(tokens, logits):
        R = torch.zeros_like(tokens)
        R[0] = tokens[0] * model.head.weight[k]  # R_o = z_o, so R_o / z_o = 1
        return R.detach()

    return start


def of_severity(model):
    """The map head has ReLU and no other nonlinear layer: its gradient x input is the rule."""

    def start(tokens, logits):
        cells = tokens.detach()[1:].requires_grad_()
        severity = model.map_head(cells.T.unflatten(1, model.grid)[None]).sigmoid()
        (gradient,) = torch.autograd.grad(worst({"severity_map": severity}).sum(), cells)
        return torch.cat([torch.zeros_like(tokens[:1]), cells * gradient]).detach()

    return start


@pytest.mark.parametrize("seed", range(1, 5))
def test_attnlrp_is_its_rules_layer_by_layer(seed):
    model, inputs = tiny(seed)
    found = attention_lrp.attnlrp(model, inputs, [0, 1, 2])
    assert found.min() < 0 < found.max()
    for k in range(3):
        expected = torch.stack([slow_attnlrp(model, one, of_class(model, k)) for one in inputs])
        assert expected.abs().max() > 1e-4
        assert (found[:, k] - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("seed", range(2))
def test_attnlrp_of_a_severity_is_its_rules_too(seed):
    model, inputs = tiny(seed, map_head=True, map_scale=4)
    expected = torch.stack([slow_attnlrp(model, one, of_severity(model)) for one in inputs])
    found = attention_lrp.attnlrp(model, inputs, worst)
    assert expected.abs().max() > 1e-4
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def shares(model, features, k):
    """What the parts of a class's logits get (B,): of the input, of what is added, of softmax."""
    kept = []

    def keep(module, inputs, output):
        (scores,) = inputs
        scores.register_hook(lambda g: kept.append(-(g * scores).sum((1, 2, 3))))
        output.register_hook(lambda g: kept.append((g * output).sum((1, 2, 3))))

    added = [
        weight
        for name, weight in model.named_parameters()
        if name.endswith("bias") or name in ("cls_token", "pos_embed")
    ]
    with attention_lrp.attnlrp_rules(model):
        hooks = [block.attn.softmax.register_forward_hook(keep) for block in model.blocks]
        features = features.clone().requires_grad_()
        value = model(features)["logits"][:, k]
        gradient, *of_added = torch.autograd.grad(
            value.sum(), [features, *added], materialize_grads=True
        )
        for hook in hooks:
            hook.remove()
    of_input = (gradient * features).sum((1, 2, 3))
    of_biases = sum((g * weight).sum() for g, weight in zip(of_added, added, strict=True))
    return value.detach(), of_input.detach(), of_biases.detach(), sum(kept).detach()


def test_all_of_the_output_is_found_again():
    """Cells, biases and positions, and what each softmax keeps sum to the logit."""
    model, inputs = tiny(3, batch=1, depth=4)
    value, of_input, of_biases, of_softmax = shares(model, inputs, 2)
    assert min(abs(float(part)) for part in (of_input, of_biases, of_softmax)) > 1e-3
    torch.testing.assert_close(of_input + of_biases + of_softmax, value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(attention_lrp.attnlrp(model, inputs, 2).sum((1, 2)), of_input)


def test_the_rules_keep_the_forward_pass():
    model, inputs = tiny(1, map_head=True)
    before = model(inputs)
    with attention_lrp.attnlrp_rules(model):
        inside = model(inputs)
    for name, value in before.items():
        torch.testing.assert_close(inside[name], value, rtol=1e-12, atol=1e-12)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_zero_gets_nothing_and_breaks_nothing():
    x = torch.tensor([0.0, 1.0, -2.0], requires_grad=True)
    gelu = torch.nn.GELU()
    out = attention_lrp.quotient_rule(gelu, (x,), gelu(x))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.8413447, 0.0227501]))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-3), (torch.bfloat16, None)])
def test_other_precisions(dtype, tolerance):
    model, inputs = tiny(5, embed_dim=32, num_heads=4)
    expected = attention_lrp.attnlrp(model, inputs, 0)
    found = attention_lrp.attnlrp(model.to(dtype), inputs.to(dtype), 0)
    assert found.dtype == dtype and found.isfinite().all()
    if tolerance:
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_an_image_has_the_same_map_alone_and_in_a_batch():
    model, inputs = tiny(3, batch=6, map_head=True)
    for target in ([0, 1, 2], worst):
        alone = [methods.METHODS["attnlrp"](model, one[None], target) for one in inputs]
        torch.testing.assert_close(
            methods.METHODS["attnlrp"](model, inputs, target),
            torch.cat(alone),
            rtol=1e-9,
            atol=1e-13,
        )


def lxt_logits(model, x):
    """Logits of a batch by the explicit rules of the authors' library; its backward pass carries
    relevance. It adds 1e-6 to every denominator of LayerNorm, and 1e-8 or nothing to others.
    """
    lf = pytest.importorskip("lxt.explicit.functional", reason="lxt: make oracles")
    from lxt.explicit.rules import IdentityRule

    def norm(layer, x):
        return lf.layer_norm(x, layer.weight, layer.bias, layer.eps)

    def linear(layer, x):
        weight = layer.weight.flatten(1)
        return lf.linear_epsilon(x, weight, layer.bias, 0)

    cells = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
    patches = linear(model.patch_embed.proj, cells)
    tokens = torch.cat([model.cls_token.expand(len(x), -1, -1), patches], 1)
    tokens = lf.add2(tokens, model.pos_embed.expand(len(x), -1, -1))
    for block in model.blocks:
        qkv = linear(block.attn.qkv, norm(block.norm1, tokens))
        q, k, v = qkv.unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = lf.mul2(lf.matmul(q, k.transpose(-2, -1)), q.shape[-1] ** -0.5)
        out = lf.matmul(lf.softmax(scores, -1), v).transpose(1, 2).flatten(2)
        tokens = lf.add2(tokens, linear(block.attn.proj, out))
        hidden = linear(block.mlp.fc1, norm(block.norm2, tokens))
        hidden = IdentityRule(block.mlp.act)(hidden)
        tokens = lf.add2(tokens, linear(block.mlp.fc2, hidden))
    return linear(model.head, norm(model.norm, tokens)[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_the_authors_implementation_agrees(seed):
    model, inputs = tiny(seed, embed_dim=32, num_heads=4, mlp_dim=48, grid=4)
    found = attention_lrp.attnlrp(model, inputs, [0, 1, 2])
    for k in range(3):
        x = inputs.clone().requires_grad_()
        logit = lxt_logits(model, x)[:, k]
        (R,) = torch.autograd.grad(logit, x, logit.detach())
        error = (found[:, k] - R.sum(1)).abs().max() / R.sum(1).abs().max()
        assert error < 1e-3, error
