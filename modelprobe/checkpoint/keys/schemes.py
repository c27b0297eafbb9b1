"""Namings of published code bases, as tables from their names to timm's and torchvision's of the same network.

How to add one: an entry of `NAMING_SCHEMES`, its patterns in the order in which they are tried, and a case in
`tests/checkpoint/keys/rules/test_naming.py`. A pattern matches a whole name; `\\1` is a group of it, `<1+>` the number
in a group plus one, `<1->` less one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

WEIGHT_OR_BIAS = r"\.(weight|bias)"


@dataclass(frozen=True)
class NamingScheme:
    """A naming: a pattern that some name of it must match, the renames, and what stands in no weight file.

    `unfolded` are patterns of tensors whose input channels are those of `nn.Unfold` (patches within a channel), where
    timm has the channels of each patch together.
    """

    name: str
    mark: str
    renames: tuple[tuple[str, str], ...]
    assumes: str = ""
    unfolded: str = ""

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        return tuple((re.compile(pattern), template) for pattern, template in self.renames)

    def renamed(self, names: Sequence[str]) -> dict[str, str]:
        """The new names of those that a pattern matches; nothing where the mark is not there."""
        mark = re.compile(self.mark)
        if not any(mark.fullmatch(name) for name in names):
            return {}
        found = {}
        for name in names:
            for pattern, template in self._compiled:
                match = pattern.fullmatch(name)
                if match:
                    found[name] = _filled(template, match)
                    break
        return found


def _filled(template: str, match: re.Match[str]) -> str:
    shifted = re.sub(r"<(\d)([+-])>", lambda m: str(int(match[int(m[1])]) + (1 if m[2] == "+" else -1)), template)
    return match.expand(shifted)


_HF_BLOCK = r"(?:vit|deit|beit)\.(?:encoder\.layer|layers)\.(\d+)\."
_HF_BLOCKS = (
    (_HF_BLOCK + r"attention\.(?:attention\.)?(query|q_proj)\.weight", r"blocks.\1.attn.query.weight"),
    (_HF_BLOCK + r"attention\.(?:attention\.)?(key|k_proj)\.(weight|bias)", r"blocks.\1.attn.key.\3"),
    (_HF_BLOCK + r"attention\.(?:attention\.)?(value|v_proj)\.weight", r"blocks.\1.attn.value.weight"),
    (_HF_BLOCK + r"attention\.(?:output\.dense|o_proj)" + WEIGHT_OR_BIAS, r"blocks.\1.attn.proj.\2"),
    (_HF_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)" + WEIGHT_OR_BIAS, r"blocks.\1.mlp.fc1.\2"),
    (_HF_BLOCK + r"(?:output\.dense|mlp\.fc2)" + WEIGHT_OR_BIAS, r"blocks.\1.mlp.fc2.\2"),
    (_HF_BLOCK + r"layernorm_before" + WEIGHT_OR_BIAS, r"blocks.\1.norm1.\2"),
    (_HF_BLOCK + r"layernorm_after" + WEIGHT_OR_BIAS, r"blocks.\1.norm2.\2"),
)
_HF_EMBEDDINGS = (
    (r"(?:vit|deit|beit)\.embeddings\.cls_token", "cls_token"),
    (r"(?:vit|deit|beit)\.embeddings\.distillation_token", "dist_token"),
    (r"(?:vit|deit|beit)\.embeddings\.position_embeddings", "pos_embed"),
    (r"(?:vit|deit|beit)\.embeddings\.patch_embeddings\.projection" + WEIGHT_OR_BIAS, r"patch_embed.proj.\1"),
    (r"(?:vit|deit|beit)\.layernorm" + WEIGHT_OR_BIAS, r"norm.\1"),
    (r"(?:cls_)?classifier" + WEIGHT_OR_BIAS, r"head.\1"),
    (r"distillation_classifier" + WEIGHT_OR_BIAS, r"head_dist.\1"),
)
_HF_SWIN = r"swin\.encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_MM_SWIN = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."

NAMING_SCHEMES = (
    NamingScheme(
        "ViT and DeiT of transformers",
        r"(?:vit|deit)\.embeddings\.cls_token",
        (
            (_HF_BLOCK + r"attention\.(?:attention\.)?(query|q_proj)\.bias", r"blocks.\1.attn.query.bias"),
            (_HF_BLOCK + r"attention\.(?:attention\.)?(value|v_proj)\.bias", r"blocks.\1.attn.value.bias"),
            *_HF_BLOCKS,
            *_HF_EMBEDDINGS,
        ),
        "norms have an epsilon of 1e-12 there, 1e-6 in timm",
    ),
    NamingScheme(
        "BEiT of transformers",
        r"beit\.embeddings\.cls_token",
        (
            (_HF_BLOCK + r"attention\.(?:attention\.)?(query|q_proj)\.bias", r"blocks.\1.attn.q_bias"),
            (_HF_BLOCK + r"attention\.(?:attention\.)?(value|v_proj)\.bias", r"blocks.\1.attn.v_bias"),
            (
                _HF_BLOCK + r"(?:attention\.attention\.)?relative_position_bias\.(relative_position_bias_table)",
                r"blocks.\1.attn.\2",
            ),
            (_HF_BLOCK + r"lambda_([12])", r"blocks.\1.gamma_\2"),
            *_HF_BLOCKS,
            *_HF_EMBEDDINGS,
            (r"beit\.pooler\.layernorm" + WEIGHT_OR_BIAS, r"fc_norm.\1"),
        ),
        "norms have an epsilon of 1e-12 there, 1e-6 in timm",
    ),
    NamingScheme(
        "Swin of transformers",
        r"swin\.embeddings\.patch_embeddings\.projection\.weight",
        (
            (_HF_SWIN + r"attention\.(?:self\.)?(query|q_proj)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.attn.query.\4"),
            (_HF_SWIN + r"attention\.(?:self\.)?(key|k_proj)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.attn.key.\4"),
            (_HF_SWIN + r"attention\.(?:self\.)?(value|v_proj)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.attn.value.\4"),
            (
                _HF_SWIN + r"attention\.(?:self\.|relative_position_bias\.)?(relative_position_bias_table)",
                r"layers.\1.blocks.\2.attn.\3",
            ),
            (_HF_SWIN + r"attention\.(?:output\.dense|o_proj)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.attn.proj.\3"),
            (_HF_SWIN + r"(?:intermediate\.dense|mlp\.fc1)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.mlp.fc1.\3"),
            (_HF_SWIN + r"(?:output\.dense|mlp\.fc2)" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.mlp.fc2.\3"),
            (_HF_SWIN + r"layernorm_before" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.norm1.\3"),
            (_HF_SWIN + r"layernorm_after" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.norm2.\3"),
            (r"swin\.encoder\.layers\.(\d+)\.downsample\.(.*)", r"layers.<1+>.downsample.\2"),
            (r"swin\.embeddings\.patch_embeddings\.projection" + WEIGHT_OR_BIAS, r"patch_embed.proj.\1"),
            (r"swin\.embeddings\.norm" + WEIGHT_OR_BIAS, r"patch_embed.norm.\1"),
            (r"swin\.layernorm" + WEIGHT_OR_BIAS, r"norm.\1"),
            (r"classifier" + WEIGHT_OR_BIAS, r"head.fc.\1"),
        ),
    ),
    NamingScheme(
        "ConvNeXt of transformers",
        r"convnext\.embeddings\.patch_embeddings\.weight",
        (
            (r"convnext\.embeddings\.patch_embeddings" + WEIGHT_OR_BIAS, r"stem.0.\1"),
            (r"convnext\.embeddings\.layernorm" + WEIGHT_OR_BIAS, r"stem.1.\1"),
            (
                r"convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.([01])" + WEIGHT_OR_BIAS,
                r"stages.\1.downsample.\2.\3",
            ),
            (
                r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv" + WEIGHT_OR_BIAS,
                r"stages.\1.blocks.\2.conv_dw.\3",
            ),
            (
                r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm" + WEIGHT_OR_BIAS,
                r"stages.\1.blocks.\2.norm.\3",
            ),
            (
                r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv([12])" + WEIGHT_OR_BIAS,
                r"stages.\1.blocks.\2.mlp.fc\3.\4",
            ),
            (r"convnext\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
            (r"convnext\.layernorm" + WEIGHT_OR_BIAS, r"head.norm.\1"),
            (r"classifier" + WEIGHT_OR_BIAS, r"head.fc.\1"),
        ),
        "the last norm has an epsilon of 1e-12 there, 1e-6 in timm",
    ),
    NamingScheme(
        "ViT of mmpretrain",
        r"backbone\.layers\.0\.ffn\.layers\.0\.0\.weight",
        (
            (r"backbone\.(cls_token|pos_embed)", r"\1"),
            (r"backbone\.patch_embed\.projection" + WEIGHT_OR_BIAS, r"patch_embed.proj.\1"),
            (r"backbone\.layers\.(\d+)\.(?:ln|norm)([12])" + WEIGHT_OR_BIAS, r"blocks.\1.norm\2.\3"),
            (r"backbone\.layers\.(\d+)\.attn\.(qkv|proj)" + WEIGHT_OR_BIAS, r"blocks.\1.attn.\2.\3"),
            (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0" + WEIGHT_OR_BIAS, r"blocks.\1.mlp.fc1.\2"),
            (r"backbone\.layers\.(\d+)\.ffn\.layers\.1" + WEIGHT_OR_BIAS, r"blocks.\1.mlp.fc2.\2"),
            (r"backbone\.(?:ln|norm)1" + WEIGHT_OR_BIAS, r"norm.\1"),
            (r"head\.layers\.head" + WEIGHT_OR_BIAS, r"head.\1"),
        ),
    ),
    NamingScheme(
        "Swin of mmpretrain",
        r"backbone\.stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",
        (
            (r"backbone\.patch_embed\.projection" + WEIGHT_OR_BIAS, r"patch_embed.proj.\1"),
            (r"backbone\.patch_embed\.norm" + WEIGHT_OR_BIAS, r"patch_embed.norm.\1"),
            (_MM_SWIN + r"attn\.w_msa\.(.*)", r"layers.\1.blocks.\2.attn.\3"),
            (_MM_SWIN + r"norm([12])" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.norm\3.\4"),
            (_MM_SWIN + r"ffn\.layers\.0\.0" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.mlp.fc1.\3"),
            (_MM_SWIN + r"ffn\.layers\.1" + WEIGHT_OR_BIAS, r"layers.\1.blocks.\2.mlp.fc2.\3"),
            (
                r"backbone\.stages\.(\d+)\.downsample\.(norm|reduction)" + WEIGHT_OR_BIAS,
                r"layers.<1+>.downsample.\2.\3",
            ),
            (r"backbone\.norm3" + WEIGHT_OR_BIAS, r"norm.\1"),
            (r"head\.fc" + WEIGHT_OR_BIAS, r"head.fc.\1"),
        ),
        unfolded=r"layers\.\d+\.downsample\.(?:norm|reduction)\.(?:weight|bias)",
    ),
    NamingScheme(
        "ConvNeXt of mmpretrain",
        r"backbone\.stages\.0\.0\.depthwise_conv\.weight",
        (
            (r"backbone\.downsample_layers\.0\.([01])" + WEIGHT_OR_BIAS, r"stem.\1.\2"),
            (r"backbone\.downsample_layers\.(\d+)\.([01])" + WEIGHT_OR_BIAS, r"stages.\1.downsample.\2.\3"),
            (r"backbone\.stages\.(\d+)\.(\d+)\.depthwise_conv" + WEIGHT_OR_BIAS, r"stages.\1.blocks.\2.conv_dw.\3"),
            (r"backbone\.stages\.(\d+)\.(\d+)\.norm" + WEIGHT_OR_BIAS, r"stages.\1.blocks.\2.norm.\3"),
            (
                r"backbone\.stages\.(\d+)\.(\d+)\.pointwise_conv([12])" + WEIGHT_OR_BIAS,
                r"stages.\1.blocks.\2.mlp.fc\3.\4",
            ),
            (r"backbone\.stages\.(\d+)\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
            (r"backbone\.norm3" + WEIGHT_OR_BIAS, r"head.norm.\1"),
            (r"head\.fc" + WEIGHT_OR_BIAS, r"head.fc.\1"),
        ),
    ),
    NamingScheme(
        "ResNet of mmpretrain",
        r"backbone\.layer1\.0\.conv1\.weight",
        ((r"backbone\.((?:conv1|bn1|layer\d)\..*)", r"\1"), (r"head\.fc" + WEIGHT_OR_BIAS, r"fc.\1")),
    ),
    NamingScheme(
        "ResNet of detectron2",
        r"(?:backbone\.(?:bottom_up\.)?)?res2\.0\.conv1\.norm\.weight",
        (
            (r"(?:backbone\.(?:bottom_up\.)?)?stem\.conv1\.(weight)", r"conv1.\1"),
            (r"(?:backbone\.(?:bottom_up\.)?)?stem\.conv1\.norm\.(.*)", r"bn1.\1"),
            (r"(?:backbone\.(?:bottom_up\.)?)?res(\d)\.(\d+)\.conv(\d)\.(weight)", r"layer<1->.\2.conv\3.\4"),
            (r"(?:backbone\.(?:bottom_up\.)?)?res(\d)\.(\d+)\.conv(\d)\.norm\.(.*)", r"layer<1->.\2.bn\3.\4"),
            (r"(?:backbone\.(?:bottom_up\.)?)?res(\d)\.(\d+)\.shortcut\.(weight)", r"layer<1->.\2.downsample.0.\3"),
            (r"(?:backbone\.(?:bottom_up\.)?)?res(\d)\.(\d+)\.shortcut\.norm\.(.*)", r"layer<1->.\2.downsample.1.\3"),
            (r"(?:backbone\.(?:bottom_up\.)?)?(?:stem\.fc|linear)" + WEIGHT_OR_BIAS, r"fc.\1"),
        ),
        "the strides are those of the 3x3 convolutions (STRIDE_IN_1X1: False); the file does not say",
    ),
)

_LUKEMELAS = re.compile(r"_blocks\.(\d+)\._(\w+)\.(.*)")
_SE = {"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "depthwise_conv": "conv_dw"}
_FIRST_STAGE = {**_SE, "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
_LATER = {**_SE, "expand_conv": "conv_pw", "bn0": "bn1", "bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3"}
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LUKEMELAS = "EfficientNet of lukemelas"
LUKEMELAS_ASSUMES = (
    "it pads as TensorFlow does, and its norms have an epsilon of 1e-3: timm's tf_efficientnet networks do so"
)


def lukemelas_names(names: Sequence[str], expected: Mapping[str, object]) -> dict[str, str]:
    """The names of the EfficientNet-PyTorch package, whose blocks are numbered through, with timm's stages."""
    blocks = {tuple(map(int, name.split(".")[1:3])): 0 for name in expected if re.match(r"blocks\.\d+\.\d+\.", name)}
    places = sorted(blocks)
    found = {}
    for name in names:
        match = _LUKEMELAS.fullmatch(name)
        module, _, leaf = name.rpartition(".")
        if module in _AROUND and leaf:
            found[name] = f"{_AROUND[module]}.{leaf}"
        elif match and int(match[1]) < len(places):
            stage, block = places[int(match[1])]
            inner = (_FIRST_STAGE if stage == 0 else _LATER).get(match[2])
            if inner:
                found[name] = f"blocks.{stage}.{block}.{inner}.{match[3]}"
    return found if any(name.startswith("_blocks.") for name in found) else {}
