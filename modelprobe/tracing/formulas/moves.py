"""Which operators are free: they view, copy, index, reorder, create or convert data and compute nothing from it.

The rule for membership: every output element is one input element, a constant, or an index. What they do cost is
bytes, and the ledger records those: nothing for a view, the moved elements otherwise. Collectives are free as well:
what they cost is time on the wire, and the sums of a reduction are taken there.
"""

from __future__ import annotations

from modelprobe.tracing.formulas.registry import free

_VIEWS = """
    view reshape _reshape_alias _unsafe_view view_as reshape_as view_as_real view_as_complex _conj conj
    resolve_conj resolve_neg _neg_view real imag transpose t numpy_T mT mH adjoint matrix_H permute movedim moveaxis
    swapaxes swapdims squeeze unsqueeze flatten unflatten ravel expand expand_as broadcast_to broadcast_tensors
    as_strided select slice narrow diagonal split split_with_sizes unsafe_split unsafe_split_with_sizes chunk
    unsafe_chunk tensor_split hsplit vsplit dsplit unbind unfold alias detach lift lift_fresh lift_fresh_copy positive
    contiguous atleast_1d atleast_2d atleast_3d slice_inverse _mkldnn_reshape _mkldnn_transpose
    resize resize_as resize_as_sparse _resize_output set requires_grad_ shallow_copy_data_
    _nested_view_from_buffer _nested_view_from_jagged _nested_get_values _nested_get_offsets _nested_get_lengths
    _nested_get_ragged_idx _nested_get_min_seqlen _nested_get_max_seqlen _nested_get_jagged_dummy
    _nested_tensor_size _nested_tensor_strides _nested_tensor_storage_offsets _nested_compute_contiguous_strides_offsets
    _values _indices values indices crow_indices col_indices ccol_indices row_indices _nnz _dimI _dimV sparse_dim
    dense_dim is_coalesced _coalesced _sparse_broadcast_to
    output_nr is_same_size stride size numel dim is_complex is_floating_point is_nonzero __is__ __isnot__ data _version
    is_pinned is_contiguous isreal is_inference is_set_to _has_same_storage_numel can_cast result_type promote_types
    _has_compatible_shallow_copy_type sym_size sym_numel sym_stride sym_storage_offset sym_is_contiguous
    _shape_as_tensor _assert_tensor_metadata _assert_scalar _functional_assert_scalar sym_constrain_range
    sym_constrain_range_for_size _fused_sdp_choice q_scale q_zero_point q_per_channel_scales
    q_per_channel_zero_points q_per_channel_axis qscheme _print record_stream _fw_primal _make_dual _unpack_dual
"""

_MOVES = """
    clone copy _to_copy to type_as cpu cuda _cast_Float _cast_Half cat concat concatenate stack _stack hstack vstack
    dstack column_stack row_stack block_diag _chunk_cat repeat repeat_interleave tile roll flip fliplr flipud rot90
    pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d
    replication_pad3d _pad_circular _pad_enum pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    im2col tril triu diag diag_embed diagflat tril_indices triu_indices meshgrid cartesian_prod combinations
    index_copy index_fill masked_select masked_scatter masked_fill nonzero nonzero_numpy nonzero_static argwhere where
    __getitem__ select_scatter slice_scatter diagonal_scatter as_strided_scatter narrow_copy max_unpool2d max_unpool3d
    one_hot complex _local_scalar_dense item _pin_memory pin_memory _linalg_check_errors lu_unpack
    view_copy expand_copy permute_copy transpose_copy view_as_complex_copy view_as_real_copy unfold_copy squeeze_copy
    unsqueeze_copy slice_copy select_copy split_copy split_with_sizes_copy unbind_copy alias_copy as_strided_copy
    detach_copy diagonal_copy t_copy _conj_copy _neg_view_copy _reshape_copy _reshape_alias_copy _lazy_clone
    _pack_padded_sequence _pad_packed_sequence pad_sequence
    to_dense to_sparse _to_dense _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc to_mkldnn
    _coalesce coalesce sparse_coo_tensor _sparse_coo_tensor_unsafe _sparse_coo_tensor_with_dims
    _sparse_coo_tensor_with_dims_and_tensors sparse_compressed_tensor _sparse_compressed_tensor_with_dims sparse_mask
    _sparse_mask_projection _validate_compressed_sparse_indices _convert_indices_from_coo_to_csr
    _convert_indices_from_csr_to_coo _to_sparse_semi_structured copy_sparse_to_sparse
    _nested_tensor_from_tensor_list _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned _nested_from_padded
    _nested_from_padded_tensor _nested_from_padded_and_nested_example nested_to_padded_tensor to_padded_tensor
    _jagged_to_padded_dense_forward _padded_dense_to_jagged_forward _nested_view_from_buffer_copy
    _nested_view_from_jagged_copy _nested_get_values_copy values_copy indices_copy _values_copy _indices_copy
    crow_indices_copy col_indices_copy ccol_indices_copy row_indices_copy _sparse_broadcast_to_copy
    _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu _dyn_quant_pack_4bit_weight int_repr
    _make_per_tensor_quantized_tensor _make_per_channel_quantized_tensor mkldnn_reorder_conv2d_weight
    mkldnn_reorder_conv3d_weight
"""

_CREATIONS = """
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided zeros zeros_like new_zeros ones ones_like
    new_ones full full_like new_full arange range linspace logspace eye scalar_tensor tensor from_file hann_window
    hamming_window bartlett_window blackman_window kaiser_window _efficientzerotensor fft_fftfreq fft_rfftfreq
    _new_zeros_with_same_feature_meta empty_quantized _empty_affine_quantized _empty_per_channel_affine_quantized
    fill zero
"""

_RANDOM = """
    rand rand_like randn randn_like randint randint_like randperm bernoulli normal uniform random exponential
    multinomial normal_functional poisson binomial log_normal cauchy geometric _standard_gamma _sample_dirichlet
"""

_COMMUNICATION = """
    c10d::allreduce_ c10d::allreduce_coalesced_ c10d::allgather_ c10d::_allgather_base_ c10d::allgather_coalesced_
    c10d::allgather_into_tensor_coalesced_ c10d::reduce_scatter_ c10d::_reduce_scatter_base_
    c10d::reduce_scatter_tensor_coalesced_ c10d::broadcast_ c10d::reduce_ c10d::gather_ c10d::scatter_ c10d::alltoall_
    c10d::alltoall_base_ c10d::send c10d::recv_ c10d::recv_any_source_ c10d::barrier c10d::monitored_barrier_
    _c10d_functional::all_reduce _c10d_functional::all_reduce_coalesced _c10d_functional::all_gather_into_tensor
    _c10d_functional::all_gather_into_tensor_coalesced _c10d_functional::reduce_scatter_tensor
    _c10d_functional::reduce_scatter_tensor_coalesced _c10d_functional::all_to_all_single _c10d_functional::broadcast
    _c10d_functional::wait_tensor _c10d_functional::_wrap_tensor_autograd _c10d_functional_autograd::all_reduce
    _c10d_functional_autograd::all_gather_into_tensor _c10d_functional_autograd::reduce_scatter_tensor
    _c10d_functional_autograd::all_to_all_single
"""

free("view", *_VIEWS.split(), "squeeze_", "unsqueeze_", "transpose_", "t_", "detach_")
free("data", *_MOVES.split())
free("creation", *_CREATIONS.split())
free("random", *_RANDOM.split())
free("view", *(f"prim::{name}" for name in ("layout", "device", "dtype", "is_cuda", "is_sparse", "is_meta")))
free("communication", *_COMMUNICATION.split())
free("label", *(f"profiler::_record_function_{name}" for name in ("enter", "enter_new", "exit")))
