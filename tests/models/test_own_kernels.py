"""What our kernels are for, and how builds of them are told apart."""

from __future__ import annotations

import re

from takeoff.models.own_kernels import find_own_kernels, own_build, own_types

VNNI = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})


def test_the_build_of_the_set_up_has_them() -> None:
    path = find_own_kernels()
    assert path is not None
    assert path.read_bytes()[:4] == b"\x7fELF"
    build = own_build()
    assert build is not None
    assert re.fullmatch("[0-9a-f]{12}", build)


def test_products_need_the_dot_products_of_avx512() -> None:
    assert own_types(VNNI | {"avx2"}) == {"Q4_1", "Q8_0"}
    assert own_types(VNNI - {"avx512_vnni"}) == frozenset()
