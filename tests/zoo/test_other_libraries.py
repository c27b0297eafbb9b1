"""Networks of other libraries, built from their configurations: answered without an input, equal to torch's counter.

Each is also the test of what its library declares; libraries that are not installed are left out.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from modelprobe.errors import BadInput
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record
from modelprobe.tracing.compiler_stand_in import compiler_stand_in
from modelprobe.tracing.recorder import trace as record_forward
from modelprobe.tracing.records import Trace
from tests.sampling import sampled

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]

TRANSFORMERS = """
ASTModel AlbertModel AltCLIPModel BeitModel BertGenerationEncoder BertModel BitModel BitNetModel BlipModel BloomModel
CLIPModel CLIPSegModel CLIPTextModel CLIPVisionModel CTRLModel CamembertModel ChineseCLIPModel CodeGenModel
CohereModel ConvNextModel ConvNextV2Model CvtModel DINOv3ConvNextModel DINOv3ViTModel DPTModel Data2VecAudioModel
Data2VecTextModel Data2VecVisionModel DeiTModel DiffLlamaModel Dinov2Model Dinov2WithRegistersModel DistilBertModel
DogeModel DonutSwinModel EfficientNetModel ElectraModel EuroBertModel FNetModel FalconModel FlavaModel FunnelModel
GLPNModel GPT2Model GPTBigCodeModel GPTJModel GPTNeoModel Gemma2Model Gemma3TextModel GemmaModel GitModel GlmModel
GraniteModel GroupViTModel HGNetV2Backbone HeliumModel HieraModel IJepaModel LevitModel LlamaModel MPNetModel MT5Model
Mamba2Model MambaModel MistralModel MobileBertModel MobileNetV1Model MobileNetV2Model MobileViTModel MobileViTV2Model
MptModel OPTModel Olmo2Model OlmoModel PersimmonModel Phi3Model PhiModel PoolFormerModel PvtModel PvtV2Model
Qwen2Model Qwen3Model RegNetModel ResNetModel RobertaModel SEWModel SegformerModel SiglipModel SmolLM3Model
StableLmModel Starcoder2Model SwiftFormerModel Swin2SRModel SwinModel Swinv2Model T5Model TextNetModel
TimesformerModel UMT5Model UniSpeechModel ViTMAEModel ViTMSNModel ViTModel VideoMAEModel VitDetModel VivitModel
Wav2Vec2Model WavLMModel WhisperModel XGLMModel XLMRobertaModel YolosModel
""".split()
"""Base models whose default configuration runs on `meta`."""

MIXTURES = "MixtralModel Qwen2MoeModel OlmoeModel Qwen3MoeModel GptOssModel".split()
"""Mixtures of experts, whose grouped product torch's kernel for `meta` takes in half precision only."""

WARNING = "RoFormerModel SqueezeBertModel LayoutLMModel".split()
"""They read values of their input and go the same way whatever they are."""

OF_CONSTANTS = ["BartModel", "PegasusModel"]
"""They ask for values that follow from constants alone, which are known on `meta`."""

DIFFUSERS = """
UNet2DModel UNet2DConditionModel AutoencoderKL AutoencoderTiny AsymmetricAutoencoderKL AutoencoderDC
DiTTransformer2DModel SD3Transformer2DModel AuraFlowTransformer2DModel ControlNetModel AutoencoderKLWan Kandinsky3UNet
SanaTransformer2DModel FluxTransformer2DModel WanTransformer3DModel CogView3PlusTransformer2DModel
AllegroTransformer3DModel UNet3DConditionModel AutoencoderKLCogVideoX
""".split()

SEGMENTATION = """
Unet UnetPlusPlus FPN PSPNet DeepLabV3 DeepLabV3Plus Linknet MAnet PAN UPerNet Segformer
""".split()

# Not among the extras: its package brings a module `thop` of its own, in the place of thop.
ULTRALYTICS = {"yolov8n.yaml": 4_371_993_600, "yolov8n-cls.yaml": 202_586_112, "yolo11n.yaml": 3_271_251_200}
"""YAML -> MACs at 640 x 640 (224 for the classifier): half of the FLOPs published for detectors, 8.7 G and 6.5 G."""

GRAPHS = """
from torch_geometric import nn
def gin(): return nn.GIN(16, 32, 2, 7)
def sage(): return nn.GraphSAGE(16, 32, 2, 7)
def gcn(): return nn.GCN(16, 32, 2, 7)
def lazy(): return nn.GCNConv(-1, 8)
"""


def like_the_run(trace: Trace) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the recorded forward, as empty tensors on `meta`."""
    args, kwargs = [], {}
    for ref in trace.inputs:
        name = trace.named[ref.value]
        tensor = torch.empty(ref.shape, dtype=getattr(torch, ref.dtype), device="meta")
        if name.startswith("input["):
            args.append(tensor)
        else:
            kwargs[name] = tensor
    return args, kwargs


def counted_by_torch(loaded: LoadedModel, trace: Trace) -> int:
    args, kwargs = like_the_run(trace)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), warnings.catch_warnings(), compiler_stand_in():
        warnings.simplefilter("ignore")
        loaded.model.eval()(*args, **kwargs)
    return counter.get_total_flops() // 2


def answered(spec: str, *settings: str, dtype: str | None = None) -> tuple[LoadedModel, Trace]:
    loaded = load_model(TargetRequest(spec, settings, dtype=dtype))
    return loaded, record(loaded)


def equal_to_torch(spec: str) -> None:
    loaded, trace = answered(spec)
    assert trace.env["device"] == "meta"
    assert not trace.uncounted
    assert not trace.gaps
    assert trace.macs == counted_by_torch(loaded, trace)


@pytest.mark.parametrize("name", sampled(TRANSFORMERS, 4))
def test_transformers(name: str) -> None:
    pytest.importorskip("transformers")
    equal_to_torch(f"transformers:{name}")


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_of_experts_in_single_precision(name: str) -> None:
    pytest.importorskip("transformers")
    loaded, single = answered(f"transformers:{name}")
    assert (single.env["device"], single.uncounted, single.gaps) == ("meta", (), ())
    config: Any = loaded.model.config
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    # torch's counter has no rule for grouped products: three matrices of each expert that a token is sent to
    grouped = 128 * config.num_experts_per_tok * 3 * config.hidden_size * width * config.num_hidden_layers
    half, recorded = answered(f"transformers:{name}", dtype="bfloat16")  # the only type that torch takes on meta
    assert single.macs == recorded.macs == counted_by_torch(half, recorded) + grouped
    one_token = load_model(TargetRequest(f"transformers:{name}", inputs=["input_ids=1x1:int64"]))
    read = sum(op.bytes_read for op in record(one_token).ops)
    assert read < sum(entry.nbytes for entry in single.tree.unique_state()) / 2  # experts that no token reaches


@pytest.mark.parametrize("name", WARNING)
def test_what_reads_values_only_to_warn_runs_on_meta(name: str) -> None:
    pytest.importorskip("transformers")
    request = TargetRequest(f"transformers:{name}", ["num_hidden_layers=2"])
    on_meta, real = record(load_model(request)), load_model(replace(request, device="cpu"))
    assert (on_meta.env["device"], on_meta.gaps) == ("meta", ())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        real.model.eval()(torch.zeros(1, 128, dtype=torch.long))
    config: Any = real.model.config
    # torch's counter has no rule for the CPU's fused attention: two products of each layer
    attended = 2 * 2 * 128 * 128 * config.hidden_size if name == "LayoutLMModel" else 0
    assert on_meta.macs == counter.get_total_flops() // 2 + attended


@pytest.mark.parametrize("name", OF_CONSTANTS)
def test_what_asks_for_constants_runs_on_meta(name: str) -> None:
    pytest.importorskip("transformers")
    request = TargetRequest(f"transformers:{name}", ["encoder_layers=1", "decoder_layers=1"])
    on_meta, real = record(load_model(request)), load_model(replace(request, device="cpu"))
    assert (on_meta.env["device"], on_meta.gaps) == ("meta", ())
    ids = torch.zeros(1, 128, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        real.model.eval()(input_ids=ids, decoder_input_ids=ids)
    # torch's counter has no rule for the CPU's attention: three of 128 x 128 in 1,024 channels
    assert on_meta.macs == counter.get_total_flops() // 2 + 3 * 2 * 128 * 128 * 1024


def test_segment_anything_runs_on_meta() -> None:
    transformers = pytest.importorskip("transformers")
    vision = {"num_hidden_layers": 1, "image_size": 256, "hidden_size": 64, "num_attention_heads": 2, "mlp_dim": 64}
    vision["global_attn_indexes"] = [0]
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config={"image_size": 256})
    model, image = transformers.SamModel(config).eval(), torch.zeros(1, 3, 256, 256)
    found = record_forward(model, kwargs={"pixel_values": image})
    assert not found.gaps
    assert found.macs == record_forward(model, kwargs={"pixel_values": image}, device="real").macs


def test_settings_reach_a_config_and_unknown_ones_are_refused() -> None:
    pytest.importorskip("transformers")
    _, small = answered("transformers:BertModel", "hidden_size=256", "num_attention_heads=4", "num_hidden_layers=1")
    # 128 tokens: four projections, scores and their product with the values, the feed-forward part of 3,072, the pooler
    assert small.macs == 128 * 4 * 256**2 + 2 * 128**2 * 256 + 128 * 2 * 256 * 3072 + 256**2
    with pytest.raises(BadInput, match="BertConfig has no argument 'hiden_size'") as raised:
        load_model(TargetRequest("transformers:BertModel", ["hiden_size=256"]))
    assert "hidden_size" in raised.value.hint
    _, auto = answered("transformers:AutoModel", "model_type=bert", "num_hidden_layers=1")
    assert auto.tree.cls == "BertModel"


def test_a_saved_model_is_a_target(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig(num_hidden_layers=2, architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    _, trace = answered(str(tmp_path))
    assert trace.tree.cls == "ViTForImageClassification"
    assert [ref.shape for ref in trace.inputs] == [(1, 3, 224, 224)]


@pytest.mark.parametrize("name", sampled(DIFFUSERS, 4))
def test_diffusers(name: str) -> None:
    pytest.importorskip("diffusers")
    equal_to_torch(f"diffusers:{name}")


@pytest.mark.parametrize("name", sampled(SEGMENTATION, 4))
def test_segmentation_models(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    equal_to_torch(f"segmentation_models_pytorch:{name}")


@pytest.mark.parametrize("name", ULTRALYTICS)
def test_ultralytics(name: str) -> None:
    pytest.importorskip("ultralytics")
    _, trace = answered(f"ultralytics:{name}")
    assert not trace.uncounted
    assert trace.macs == ULTRALYTICS[name]


@pytest.mark.parametrize(("name", "macs"), [("gin", 18_090), ("sage", 14_720), ("gcn", 7_360), ("lazy", 1_280)])
def test_torch_geometric(name: str, macs: int, tmp_path: Any) -> None:
    pytest.importorskip("torch_geometric")
    (tmp_path / "graphs.py").write_text(GRAPHS)
    _, trace = answered(f"{tmp_path / 'graphs.py'}:{name}")
    assert not trace.uncounted
    assert trace.macs == macs
