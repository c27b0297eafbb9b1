"""State dicts of timm's networks under the names of the code bases that published them, built name by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from torch import nn

State = dict[str, torch.Tensor]


def with_values(model: nn.Module) -> nn.Module:
    """The same with other values everywhere, so that an exchange of two tensors shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model.eval()


def respelled(state: State, *rules: tuple[str, str]) -> State:
    """Every name after the substitutions, one after the other."""
    made = {}
    for name, value in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        made[name] = value
    return made


def split(state: State, names: tuple[str, str, str]) -> State:
    """`attn.qkv` as three tensors, `attn.NAME`."""
    made: State = {}
    for name, value in state.items():
        head, found, leaf = name.partition("attn.qkv.")
        if found:
            made |= {f"{head}attn.{n}.{leaf}": part.clone() for n, part in zip(names, value.chunk(3), strict=True)}
        else:
            made[name] = value
    return made


def official_swin(state: State) -> State:
    moved = respelled(state, (r"^head\.fc", "head"))
    made = {}
    for name, value in moved.items():
        match = re.match(r"layers\.(\d)\.downsample\.(.*)", name)
        made[f"layers.{int(match[1]) - 1}.downsample.{match[2]}" if match else name] = value
    return {**made, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}


def official_convnext(state: State) -> State:
    return respelled(
        state,
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"^head\.norm", "norm"),
        (r"^head\.fc", "head"),
    )


def lukemelas(state: State) -> State:
    order = sorted({tuple(map(int, name.split(".")[1:3])) for name in state if name.startswith("blocks.")})
    made = {}
    for name, value in state.items():
        match = re.match(r"blocks\.(\d)\.(\d)\.(\w+)\.(.*)", name)
        if match is None:
            around = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            module, _, leaf = name.rpartition(".")
            made[f"{({**around, 'classifier': '_fc'})[module]}.{leaf}"] = value
            continue
        stage, block, module, leaf = int(match[1]), int(match[2]), match[3], match[4]
        if module == "se":
            inner = "_" + leaf.replace("conv_", "se_")
        elif stage == 0:
            inner = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}[module]
            inner = f"{inner}.{leaf}"
        else:
            inner = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"} | {
                "conv_pwl": "_project_conv", "bn3": "_bn2",
            }  # fmt: skip
            inner = f"{inner[module]}.{leaf}"
        made[f"_blocks.{order.index((stage, block))}.{inner}"] = value
    return made


def hf_vit(prefix: str, state: State) -> State:
    made = respelled(
        split(state, ("query", "key", "value")),
        (r"^(cls_token)$", rf"{prefix}.embeddings.\1"),
        (r"^dist_token$", f"{prefix}.embeddings.distillation_token"),
        (r"^pos_embed$", f"{prefix}.embeddings.position_embeddings"),
        (r"^patch_embed\.proj", f"{prefix}.embeddings.patch_embeddings.projection"),
        (r"^blocks\.", f"{prefix}.encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
        (r"attn\.(query|key|value)", r"attention.attention.\1"),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
        (r"^norm\.", f"{prefix}.layernorm."),
        (r"^head_dist\.", "distillation_classifier."),
    )
    return respelled(made, (r"^head\.", "cls_classifier." if "distillation_classifier.bias" in made else "classifier."))


def hf_beit(state: State) -> State:
    return respelled(
        hf_vit("beit", state),
        (r"attn\.q_bias", "attention.attention.query.bias"),
        (r"attn\.v_bias", "attention.attention.value.bias"),
        (r"attn\.(relative_position_bias_table)", r"attention.attention.relative_position_bias.\1"),
        (r"gamma_", "lambda_"),
        (r"^fc_norm", "beit.pooler.layernorm"),
    )


def hf_swin(state: State) -> State:
    return respelled(
        split(official_swin(state), ("query", "key", "value")),
        (r"^patch_embed\.proj", "swin.embeddings.patch_embeddings.projection"),
        (r"^patch_embed\.norm", "swin.embeddings.norm"),
        (r"^layers\.", "swin.encoder.layers."),
        (r"attn\.proj", "attention.output.dense"),
        (r"attn\.", "attention.self."),
        (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
        (r"^norm\.", "swin.layernorm."),
        (r"^head\.", "classifier."),
    )


def hf_convnext(state: State) -> State:
    return respelled(
        state,
        (r"^stem\.0", "convnext.embeddings.patch_embeddings"),
        (r"^stem\.1", "convnext.embeddings.layernorm"),
        (r"^stages\.", "convnext.encoder.stages."),
        (r"\.downsample\.", ".downsampling_layer."),
        (r"\.blocks\.", ".layers."),
        (r"conv_dw", "dwconv"),
        (r"(layers\.\d\.)norm", r"\1layernorm"),
        (r"mlp\.fc", "pwconv"),
        (r"gamma", "layer_scale_parameter"),
        (r"^head\.norm", "convnext.layernorm"),
        (r"^head\.fc", "classifier"),
    )


def mm_vit(state: State) -> State:
    return respelled(
        state,
        (r"^blocks\.", "layers."),
        (r"patch_embed\.proj", "patch_embed.projection"),
        (r"\.norm([12])", r".ln\1"),
        (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"),
        (r"^norm\.", "ln1."),
        (r"^(?!head)", "backbone."),
        (r"^head", "head.layers.head"),
    )


def mm_swin(state: State) -> State:
    """Its patch merging is `nn.Unfold`: channel by channel, rows before columns."""
    made = respelled(
        official_swin(state),
        (r"^layers\.", "stages."),
        (r"patch_embed\.proj", "patch_embed.projection"),
        (r"attn\.", "attn.w_msa."),
        (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"),
        (r"^norm\.", "norm3."),
        (r"^(?!head)", "backbone."),
        (r"^head", "head.fc"),
    )
    for name, value in made.items():
        if ".downsample." in name:
            quarter = value.shape[-1] // 4
            parts = {(row, column): value[..., (2 * column + row) * quarter :][..., :quarter]
                     for row in (0, 1) for column in (0, 1)}  # fmt: skip
            stacked = torch.stack([parts[0, 0], parts[0, 1], parts[1, 0], parts[1, 1]], dim=-1)
            made[name] = stacked.reshape(value.shape)
    return made


def mm_convnext(state: State) -> State:
    return respelled(
        official_convnext(state),
        (r"dwconv", "depthwise_conv"),
        (r"pwconv", "pointwise_conv"),
        (r"^norm\.", "norm3."),
        (r"^(?!head)", "backbone."),
        (r"^head", "head.fc"),
    )


def mm_resnet(state: State) -> State:
    return respelled(state, (r"^fc\.", "head.fc."), (r"^(?!head)", "backbone."))


def detectron2(state: State) -> State:
    found = respelled(
        {name: value for name, value in state.items() if not name.startswith("fc.") and "num_batches" not in name},
        (r"^conv1", "stem.conv1"),
        (r"^bn1", "stem.conv1.norm"),
        (r"^layer1", "res2"), (r"^layer2", "res3"), (r"^layer3", "res4"), (r"^layer4", "res5"),
        (r"\.bn(\d)", r".conv\1.norm"),
        (r"downsample\.0", "shortcut"), (r"downsample\.1", "shortcut.norm"),
        (r"^", "backbone.bottom_up."),
    )  # fmt: skip
    return {**found, "backbone.fpn_lateral2.weight": torch.ones(4, 4, 1, 1), "roi_heads.x.weight": torch.ones(3, 3)}


def openai_clip(state: State) -> State:
    made = respelled(
        {name: value for name, value in state.items() if not name.startswith("head.")},
        (r"^patch_embed\.proj", "conv1"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^cls_token$", "class_embedding"),
        (r"^blocks\.", "transformer.resblocks."),
        (r"^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"\.norm([12])", r".ln_\1"),
        (r"qkv\.", "in_proj_"),
        (r"attn\.proj", "attn.out_proj"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        (r"^", "visual."),
    )
    made["visual.class_embedding"] = made["visual.class_embedding"].reshape(-1)
    made["visual.positional_embedding"] = made["visual.positional_embedding"][0]
    made["visual.proj"] = state["head.weight"].T.contiguous()
    text = {
        "positional_embedding": torch.ones(7, 8),
        "text_projection": torch.ones(8, 8),
        "logit_scale": torch.ones(()),
    }
    return {**made, **text, "transformer.resblocks.0.ln_1.weight": torch.ones(8)}


def dino(state: State) -> State:
    kept = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("head.")}
    return {**kept, "head.mlp.0.weight": torch.ones(5, 5), "head.last_layer.weight_g": torch.ones(9, 1)}


def mae(state: State) -> State:
    kept = {name: value for name, value in state.items() if not name.startswith("head.")}
    decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_pos_embed": torch.ones(1, 5, 8)}
    return {**kept, **decoder, "decoder_embed.weight": torch.ones(8, 4), "decoder_blocks.0.norm1.weight": torch.ones(8)}


def moco_v3(state: State) -> State:
    kept = {name: value for name, value in state.items() if not name.startswith("head.")}
    made = {f"module.base_encoder.{name}": value for name, value in kept.items()}
    made |= {f"module.momentum_encoder.{name}": value + 1 for name, value in kept.items()}
    return {
        **made,
        "module.base_encoder.head.0.weight": torch.ones(4, 4),
        "module.predictor.0.weight": torch.ones(4, 4),
    }


SMALL = {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 3}


@dataclass(frozen=True)
class Naming:
    """A naming: the network, its settings, what makes the file of its state dict, and whether all of it is there."""

    arch: str
    settings: dict[str, object]
    make: Callable[[State], State]
    whole: bool = True

    def network(self) -> nn.Module:
        return with_values(timm.create_model(self.arch, **self.settings))


def _vit(make: Callable[[State], State], whole: bool = True, arch: str = "vit_tiny_patch16_224") -> Naming:
    return Naming(arch, {**SMALL, "num_classes": 7}, make, whole)


NAMINGS = {
    "official Swin": Naming("swin_tiny_patch4_window7_224", {"depths": [1, 2, 1, 1]}, official_swin),
    "official ConvNeXt": Naming("convnext_atto", {}, official_convnext),
    "lukemelas EfficientNet": Naming("tf_efficientnet_b0", {}, lukemelas),
    "transformers ViT": _vit(lambda state: hf_vit("vit", state)),
    "transformers DeiT": Naming("deit_tiny_distilled_patch16_224", {**SMALL, "num_classes": 7},
                                lambda state: hf_vit("deit", state)),
    "transformers BEiT": Naming("beit_base_patch16_224", {**SMALL, "num_classes": 7}, hf_beit),
    "transformers Swin": Naming("swin_tiny_patch4_window7_224", {"depths": [1, 2, 1, 1]}, hf_swin),
    "transformers ConvNeXt": Naming("convnext_tiny", {"depths": [1, 2, 1, 1], "dims": [8, 12, 16, 20]}, hf_convnext),
    "mmpretrain ViT": _vit(mm_vit),
    "mmpretrain Swin": Naming("swin_tiny_patch4_window7_224", {"depths": [1, 2, 1, 1]}, mm_swin),
    "mmpretrain ConvNeXt": Naming("convnext_tiny", {"depths": [1, 2, 1, 1], "dims": [8, 12, 16, 20]}, mm_convnext),
    "mmpretrain ResNet": Naming("resnet18", {}, mm_resnet),
    "detectron2 R-50": Naming("resnet50", {}, detectron2, whole=False),
    "OpenAI CLIP": Naming("vit_base_patch16_clip_quickgelu_224", {**SMALL, "num_classes": 7}, openai_clip),
    "DINO": _vit(dino, whole=False),
    "MAE": _vit(mae, whole=False),
    "MoCo v3": _vit(moco_v3, whole=False),
}  # fmt: skip
