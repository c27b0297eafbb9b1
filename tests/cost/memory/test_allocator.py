"""The simulated caching allocator, by its rules."""

from __future__ import annotations

from modelprobe.cost.memory.allocator import CachingAllocator, simulate

MIB = 2**20


def test_sizes_are_rounded_to_512_bytes_and_come_from_2_mib() -> None:
    found = simulate([(0, 1), (1, 513), (2, 0)])
    assert (found.allocated, found.reserved) == (512 + 1024, 2 * MIB)


def test_segments_by_size() -> None:
    assert simulate([(0, MIB)]).reserved == 2 * MIB
    assert simulate([(0, MIB + 1)]).reserved == 20 * MIB
    assert simulate([(0, 10 * MIB)]).reserved == 10 * MIB
    assert simulate([(0, 11 * MIB + 1)]).reserved == 12 * MIB


def test_freed_memory_is_taken_again_and_joined() -> None:
    found = simulate([(0, 6 * MIB), (1, 6 * MIB), (0, -1), (1, -1), (2, 9 * MIB), (3, 9 * MIB)])
    assert (found.reserved, found.peak_allocated) == (20 * MIB, 18 * MIB)


def test_a_large_piece_is_not_split_for_a_rest_of_a_mebibyte() -> None:
    found = CachingAllocator()
    found.take(0, 20 * MIB)
    found.give_back(0)
    found.take(1, 19 * MIB)
    assert found.allocated == 20 * MIB


def test_pools_do_not_mix() -> None:
    assert simulate([(0, 20 * MIB), (0, -1), (1, 512)]).reserved == 22 * MIB
