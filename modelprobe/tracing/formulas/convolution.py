"""What convolutions cost, transposed and deformable ones included."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula
from modelprobe.tracing.records import OpCall


def macs(x: Tensor, weight: Tensor, out: Tensor, transposed: bool = False) -> int:
    """MACs of a convolution with any stride, padding, dilation and groups.

    Every output element is a dot product with one filter, `weight[0]` of `Cin/groups x kernel` elements.
    Transposed, every input element is multiplied with one `weight[0]` of `Cout/groups x kernel` elements and
    scattered; what output padding and cropping drop was computed all the same.
    Source: the definition (Dumoulin and Visin, A guide to convolution arithmetic, 2016).
    """
    per_site = weight.numel() // weight.shape[0] if weight.shape[0] else 0
    return (x if transposed else out).numel() * per_site


class ComplexConvolutions:
    """Tells the third of the three real convolutions that torch makes of a complex one where it differentiates.

    Of Wr xr, Wi xi and (Wr + Wi)(xr + xi) the third stands for the two products Wr xi and Wi xr. It is counted as two,
    forwards and backwards, so that a complex MAC is four real ones as in every other product: y = Wx, dx = W* dy and
    dW = dy x*, with W* and x* the conjugates.
    """

    def __init__(self) -> None:
        self._halves: dict[int, int] = {}  # a real or imaginary part -> the real view of the complex tensor
        self._sums: set[int] = set()  # of both parts of a tensor

    def products(self, op: OpCall) -> int:
        """How many products of real tensors an operator stands for: 2 or 1."""
        given = [ref.value for ref in op.inputs]
        if op.name == "aten.view_as_real":
            self._halves[op.outputs[0].value] = op.outputs[0].value
        elif op.name == "aten.select" and given[0] in self._halves:
            self._halves[op.outputs[0].value] = self._halves[given[0]]
        elif op.name == "aten.add" and len(set(given)) == 2 and all(value in self._halves for value in given):
            if len({self._halves[value] for value in given}) == 1:
                self._sums.add(op.outputs[0].value)
        elif op.kind == "conv" and self._sums:
            operands = given[1:3] if "backward" in op.name else given[:2]
            return 2 if self._sums.issuperset(operands) else 1
        return 1


@formula("aten::conv1d", "aten::conv2d", "aten::conv3d", kind="conv")
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A dot product per output element, and one addition per output element for the bias."""
    return Cost(macs(x, weight, out), out.numel() if bias is not None else 0)


@formula("aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d", kind="conv")
def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, out: Tensor, **__: Any
) -> Cost:
    """A scaled filter per input element, and one addition per output element for the bias."""
    return Cost(macs(x, weight, out, transposed=True), out.numel() if bias is not None else 0)


@formula("aten::convolution", "aten::_convolution", "aten::convolution_overrideable", kind="conv")
def general_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> Cost:
    """The general operator below the named ones (TorchScript calls it)."""
    return Cost(macs(x, weight, out, transposed), out.numel() if bias is not None else 0)


@formula("aten::conv_tbc", kind="conv")
def time_batch_channel_convolution(x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0, *, out: Tensor) -> Cost:
    """x [T, B, Cin], weight [K, Cin, Cout]: K x Cin MACs per output element."""
    return Cost(out.numel() * weight.shape[0] * weight.shape[1], out.numel())


@formula(
    "aten::mkldnn_convolution",
    "aten::miopen_convolution",
    "aten::miopen_depthwise_convolution",
    "aten::_convolution_mode",
    kind="conv",
)
def vendor_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Kernels below the named operators, met in optimised TorchScript."""
    return Cost(macs(x, weight, out), out.numel() if bias is not None else 0)


@formula("aten::cudnn_convolution_relu", "aten::miopen_convolution_relu", kind="conv")
def rectified_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *_: Any, out: Tensor, **__: Any
) -> Cost:
    """A convolution and a ReLU, one comparison per output element, in one kernel."""
    return Cost(macs(x, weight, out), out.numel() * (1 + (bias is not None)))


@formula("aten::cudnn_convolution", kind="conv")
def cudnn_convolution(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The kernel that takes no bias."""
    return Cost(macs(x, weight, out))


@formula("aten::cudnn_convolution_transpose", "aten::miopen_convolution_transpose", kind="conv")
def vendor_transposed_convolution(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """The transposed kernels; the bias of the second is left out."""
    return Cost(macs(x, weight, out, transposed=True))


@formula("aten::cudnn_convolution_add_relu", "aten::miopen_convolution_add_relu", kind="conv")
def added_convolution(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """relu(conv(x) + bias + alpha z): four operations per output element beside the products."""
    return Cost(macs(x, weight, out), 4 * out.numel())


@formula("torchvision::deform_conv2d", kind="conv")
def deformable_convolution(
    x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, bias: Tensor, *rest: Any, out: Tensor
) -> Cost:
    """A convolution over bilinearly sampled taps (Dai et al. 2017; Zhu et al. 2019 with a mask).

    Each tap of each input channel at each output position is interpolated from 4 neighbours (4 multiplications,
    3 additions), then multiplied with the mask when there is one. Per tap, position and offset group the sample's
    coordinates take 2 additions and its 4 weights 4 products. A bias is always given, zeros if need be.
    """
    batch, _, height, width = out.shape
    positions = batch * height * width
    taps = positions * x.shape[1] * weight.shape[2] * weight.shape[3]
    # Without a mask the operator is handed a placeholder, and its last argument says so.
    per_tap = 8 if rest[-1] else 7
    return Cost(macs(x, weight, out), taps * per_tap + offset.numel() // 2 * 6 + out.numel())
