"""Attention maps against the unfused implementations themselves: timm's and torchvision's own weights, to 1e-5."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from modelprobe.errors import BadInput
from modelprobe.vision.attention.maps import (
    MEAN,
    Query,
    attentions,
    chosen_attentions,
    parse_query,
    query_of,
    rollout,
    weights_of_query,
)
from modelprobe.vision.cam.layout import lay_out
from tests.vision.networks import ClassTokenViT

CLOSE = {"atol": 1e-5, "rtol": 0.0}


def followed(model, size=64, channels=3):
    image = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1))
    return attentions(lay_out(model, image).attended, (size, size)), image


def unfused(model, image):
    """The weights that go into every `attn_drop` of timm's when its attention is not fused, in order."""
    kept, handles = [], []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            handles.append(module.attn_drop.register_forward_pre_hook(lambda _m, args: kept.append(args[0])))
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return kept


def perturbed(model):
    """Zeros and ones of a new network (layer scales, position tables) made numbers that matter."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


SMALL = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "settings", "tokens"),
    [
        ("vit_tiny_patch16_224", SMALL, 17),
        ("deit_tiny_distilled_patch16_224", SMALL, 18),
        ("beit_base_patch16_224", SMALL, 17),
        ("eva02_tiny_patch14_224", {**SMALL, "patch_size": 16}, 17),
        ("vit_small_patch16_dinov3", SMALL, 21),
    ],
)
def test_equal_timms_unfused_attention(name, settings, tokens):
    model = perturbed(timm.create_model(name, **settings))
    found, image = followed(model)
    assert [item.path for item in found] == ["blocks.0.attn", "blocks.1.attn"]
    assert all(item.source.weights is None for item in found)  # they were fused
    for item, expected in zip(found, unfused(model, image), strict=True):
        assert expected.shape == (1, 3, tokens, tokens)
        torch.testing.assert_close(item.weights()[:, 0], expected[0], **CLOSE)
        torch.testing.assert_close(item.weights([2, 0])[:, 0], expected[0, [2, 0]], **CLOSE)
        # the class token's row, without the tokens of no place
        values, rest = weights_of_query(item, item.weights(), query_of(item, None))
        torch.testing.assert_close(values, expected[0, :, 0, tokens - 16 :].reshape(3, 4, 4), **CLOSE)
        torch.testing.assert_close(rest, expected[0, :, 0, : tokens - 16].sum(-1), **CLOSE)


def test_equal_torchvisions_own_weights():
    model = perturbed(
        torchvision.models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=5
        )
    )
    found, image = followed(model)
    kept = []
    for layer in model.encoder.layers:
        attention = layer.self_attention
        attention.register_forward_pre_hook(
            lambda m, args: kept.append(m._parameters and (m, args[0].clone())), prepend=True
        )
    with torch.no_grad():
        model(image)
        for module in model.modules():
            module._forward_pre_hooks.clear()
        for item, (module, tokens) in zip(found, kept, strict=True):
            _, expected = module(tokens, tokens, tokens, need_weights=True, average_attn_weights=False)
            torch.testing.assert_close(item.weights()[:, 0], expected[0], **CLOSE)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_shifted_windows_lie_where_they_came_from(library):
    """Swin: the weights are those of the unfused code, and every patch looks at its own window, shifted or not."""
    if library == "timm":
        settings = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (2,)}
        model = perturbed(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **settings))
    else:
        model = perturbed(torchvision.models.SwinTransformer([4, 4], 24, [2], [2], [4, 4], num_classes=5))
    found, image = followed(model)
    plain, shifted = found
    assert (plain.windows, shifted.windows) == (16, 16)  # 64 / 4 = 16 patches a side, 4 x 4 windows of 4 x 4
    if library == "timm":
        for item, expected in zip(found, unfused(model, image), strict=True):
            torch.testing.assert_close(item.weights(), expected.transpose(0, 1), **CLOSE)
    for item, shift in ((plain, 0), (shifted, 2)):
        weights = item.weights()
        for row, column in ((5, 6), (0, 0), (15, 3)):
            values, rest = weights_of_query(item, weights, Query("patch", row, column))
            torch.testing.assert_close(values.sum((1, 2)) + rest, torch.ones(2))
            rows, columns = (values[0] > 1e-20).nonzero().T  # Swin's mask is -100, which leaves e-44
            inside = [(at - shift) // 4 for at in (row, column)]
            # the cyclic shift is masked: nothing wraps around the border
            assert {(int(r) - shift) // 4 for r in rows} == {inside[0]}
            assert {(int(c) - shift) // 4 for c in columns} == {inside[1]}


def test_the_row_of_a_patch_is_its_windows_row():
    """Values, not only places: against timm's window partition undone by timm's own function."""
    from timm.models.swin_transformer import window_reverse

    settings = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2,), "num_heads": (2,), "num_classes": 5}
    model = perturbed(timm.create_model("swin_tiny_patch4_window7_224", **settings))
    (_, shifted), image = followed(model)
    raw = unfused(model, image)[1]  # [16 windows, heads, 16, 16]
    query = 4 * 1 + 3  # row 1, column 3 of its window
    windows = raw[:, :, query].reshape(16, 2, 4, 4).permute(0, 2, 3, 1)
    image_of_heads = torch.roll(window_reverse(windows, (4, 4), 16, 16), (2, 2), (1, 2))[0]
    # window (2, 1) begins at (8, 4) before the roll by (2, 2): the query is at (8 + 1 + 2, 4 + 3 + 2)
    values, _ = weights_of_query(shifted, shifted.weights(), Query("patch", 11, 9))
    torch.testing.assert_close(values[:, 10:14, 6:10], image_of_heads.permute(2, 0, 1)[:, 10:14, 6:10], **CLOSE)


def test_masks_scale_and_grouped_queries():
    class Odd(nn.Module):
        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)[:, None]  # [1, 1, 16, 6]
            q, k = tokens.repeat(1, 4, 1, 1) * torch.arange(1, 5).view(4, 1, 1), tokens.repeat(1, 2, 1, 1)
            mask = torch.ones(16, 16).tril().bool()
            out = nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.3, enable_gqa=True)
            return out + nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    found, image = followed(Odd(), 4, 6)
    tokens = image.flatten(2)[0].T
    first, second = (item.weights()[2, 0] for item in found)
    hidden = torch.ones(16, 16).triu(1).bool()
    expected = (3 * 0.3 * tokens @ tokens.T).masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(first, expected, **CLOSE)
    expected = (9 * tokens @ tokens.T / 6**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(second, expected, **CLOSE)


def test_rollout():
    torch.manual_seed(0)
    found, _ = followed(ClassTokenViT().eval(), channels=1)
    product = torch.eye(65)
    for item in found:
        product = (0.5 * item.weights().mean(0)[0] + 0.5 * torch.eye(65)) @ product
    _, rolled, part = rollout(found)
    assert len(part) == 3
    torch.testing.assert_close(rolled[0, 0], product)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(1, 1, 65))


def test_the_mean_of_all_queries_is_what_a_key_receives():
    found, _ = followed(perturbed(ClassTokenViT()), channels=1)
    weights = found[0].weights()
    values, rest = weights_of_query(found[0], weights, Query(MEAN))
    torch.testing.assert_close(values.flatten(1), weights[:, 0, 1:, 1:].mean(1))
    torch.testing.assert_close(rest, weights[:, 0, 1:, 0].mean(1))


def test_which_blocks_are_meant():
    found, _ = followed(ClassTokenViT().eval(), channels=1)

    def paths(*texts):
        return [item.path for item in chosen_attentions(found, texts)]

    assert paths() == ["blocks.2"]
    assert paths("-1", "0") == ["blocks.0", "blocks.2"]
    assert paths("all") == paths("blocks.*") == paths("blocks") == ["blocks.0", "blocks.1", "blocks.2"]
    for text, message in (("3", "the model has 3"), ("block.2", "did you mean blocks.2")):
        with pytest.raises(BadInput) as error:
            paths(text)
        assert message in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize("text", ["7", "a,b", "-1,2", "", "1,2,3"])
def test_what_is_no_query(text):
    with pytest.raises(BadInput, match="is no query"):
        parse_query(text)


def test_a_query_that_is_not_there():
    (item, *_), _ = followed(ClassTokenViT().eval(), channels=1)
    with pytest.raises(BadInput, match="8 rows and 8 columns of patches: there is no 8,0"):
        query_of(item, parse_query("8,0"))
    windowed, _ = followed(torchvision.models.SwinTransformer([4, 4], 24, [2], [2], [4, 4], num_classes=5).eval())
    with pytest.raises(BadInput, match="has no class token"):
        query_of(windowed[0], parse_query("cls"))


def test_attention_of_the_model_itself_has_a_name():
    """A forward that calls `scaled_dot_product_attention` outside every layer, twice."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.head = nn.Conv2d(1, 16, 8, 8), nn.Linear(16, 4)

        def forward(self, x):
            t = self.patches(x).flatten(2).transpose(1, 2)[:, None]
            for _ in range(2):
                t = nn.functional.scaled_dot_product_attention(t, t, t)
            return self.head(t[:, 0].mean(1))

    found, _ = followed(Root().eval(), channels=1)
    assert [item.path for item in found] == ["(model)", "(model)#2"]
