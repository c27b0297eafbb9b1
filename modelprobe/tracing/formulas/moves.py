"""Which operators are free: they view, copy, index, reorder, create or convert data and compute nothing from it.

The rule for membership: every output element is one input element, a constant, or an index. What they do cost is
bytes, and the ledger records those: nothing for a view, the moved elements otherwise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from modelprobe.tracing.formulas.registry import Cost, formula, free

free(
    "view",
    *(
        "view reshape _reshape_alias _unsafe_view view_as reshape_as view_as_real view_as_complex _conj conj "
        "resolve_conj resolve_neg _neg_view real imag transpose t numpy_T mT mH adjoint matrix_H permute movedim "
        "moveaxis swapaxes swapdims squeeze unsqueeze flatten unflatten ravel expand expand_as broadcast_to "
        "broadcast_tensors as_strided select slice narrow diagonal split split_with_sizes unsafe_split "
        "unsafe_split_with_sizes chunk unsafe_chunk tensor_split hsplit vsplit dsplit unbind unfold alias detach "
        "detach_ lift lift_fresh lift_fresh_copy  positive contiguous    "
        " _nested_view_from_buffer squeeze_ unsqueeze_ transpose_ t_ resize_ set_ requires_grad_ "
        "output_nr is_same_size stride size numel dim is_complex is_floating_point is_nonzero __is__ __isnot__ "
        "data _version is_pinned is_contiguous _values _indices values indices _nnz isreal is_inference "
        "can_cast result_type promote_types _has_compatible_shallow_copy_type sym_size sym_numel sym_stride "
        "sym_storage_offset sym_is_contiguous _shape_as_tensor  atleast_1d atleast_2d atleast_3d "
        "_assert_tensor_metadata _assert_scalar sym_constrain_range sym_constrain_range_for_size"
    ).split(),
)

free(
    "data",
    *(
        "clone copy copy_ _to_copy to type_as cpu cuda           _cast_Float "
        "_cast_Half cat concat concatenate stack hstack vstack dstack column_stack row_stack block_diag "
        "repeat repeat_interleave tile roll flip fliplr flipud rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d "
        "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular _pad_enum "
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im tril triu diag diag_embed "
        "diagflat tril_indices triu_indices meshgrid cartesian_prod combinations index index_put index_put_ "
        "_unsafe_index _unsafe_index_put _index_put_impl_ index_copy index_fill "
        "masked_select masked_scatter nonzero nonzero_numpy argwhere where __getitem__ "
        "scatter put select_scatter slice_scatter diagonal_scatter as_strided_scatter "
        "view_copy expand_copy permute_copy transpose_copy "
        "masked_fill fill fill_ zero zero_ one_hot complex polar view_as_complex_copy "
        "_pack_padded_sequence _pad_packed_sequence pad_sequence _pin_memory pin_memory _local_scalar_dense item "
        "_linalg_check_errors to_dense to_sparse _to_dense to_mkldnn _nested_tensor_from_tensor_list _nested_tensor_from_mask "
        "nested_to_padded_tensor to_padded_tensor _coalesce coalesce sparse_coo_tensor _sparse_coo_tensor_unsafe "
        "unfold_copy _convert_indices_from_coo_to_csr squeeze_copy unsqueeze_copy slice_copy select_copy split_copy"
    ).split(),
)

free(
    "creation",
    *(
        "empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones "
        "ones_like new_ones full full_like new_full arange range linspace logspace eye scalar_tensor tensor "
        "from_file hann_window hamming_window bartlett_window blackman_window kaiser_window _efficientzerotensor"
    ).split(),
)

free(
    "random",
    *(
        "rand rand_like randn randn_like randint randint_like randperm bernoulli normal uniform uniform_ normal_ "
        "random_ exponential_ multinomial normal_functional poisson log_normal_ cauchy_ geometric_ "
    ).split(),
)


def _rows(out: Tensor) -> int:
    return out.numel() * out.element_size()


@formula("aten::embedding", kind="embedding")
def embedding(table: Tensor, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A lookup: reads the rows that are asked for, not the table; no arithmetic."""
    return Cost(0, 0, _rows(out) + indices.numel() * indices.element_size(), _rows(out))


@formula("aten::index_select", "aten::gather", "aten::take", "aten::take_along_dim", kind="data")
def lookup(x: Tensor, *args: Any, out: Tensor, **_: Any) -> Cost:
    """Reads what it puts out and the indices; no arithmetic."""
    indices = sum(arg.numel() * arg.element_size() for arg in args if isinstance(arg, Tensor))
    return Cost(0, 0, _rows(out) + indices, _rows(out))


@formula("aten::embedding_bag", "aten::_embedding_bag", "aten::_embedding_bag_forward_only", kind="embedding")
def embedding_bag(
    table: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    *_: Any,
    out: Any,
    **__: Any,
) -> Cost:
    """A lookup and a sum (or maximum) per row, a product for sample weights, a division per bag for the mean."""
    rows = indices.numel() * table.shape[-1]
    flops = rows * (1 + (per_sample_weights is not None)) + (out[0].numel() if mode == 1 else 0)
    return Cost(0, flops, rows * table.element_size() + indices.numel() * indices.element_size(), _rows(out[0]))
