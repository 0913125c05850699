import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from takeoff.errors import StartError
from takeoff.models import cpu_features

ZEN3 = """processor\t: 0
flags\t\t: fpu sse sse2 ssse3 fma sse4_1 sse4_2 popcnt avx f16c avx2 bmi1 bmi2 vaes
processor\t: 1
"""


def test_features_are_those_that_a_build_can_use(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(ZEN3)
    expected = {"fma", "sse4_2", "popcnt", "avx", "f16c", "avx2", "bmi1", "bmi2"}
    assert cpu_features.read_cpu_features(cpuinfo) == expected


def test_features_of_an_arm_processor_are_read_too(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm paca\n")
    assert cpu_features.read_cpu_features(cpuinfo) == {"asimddp", "sve", "i8mm"}


def test_a_build_made_here_runs_here(tmp_path: Path) -> None:
    cpu_features.write_build_stamp(tmp_path)
    cpu_features.check_build_cpu(tmp_path)


def test_a_build_for_more_than_this_processor_has_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    stamp = {"machine": platform.machine(), "cpu_features": ["avx2", "avx512f", "amx_int8"]}
    (tmp_path / cpu_features.STAMP_NAME).write_text(json.dumps(stamp))
    with pytest.raises(StartError) as caught:
        cpu_features.check_build_cpu(tmp_path, present=frozenset(["avx2"]))
    expected = "llama.cpp was built for a processor with amx_int8, avx512f, which this one lacks"
    assert caught.value.message == expected
    assert caught.value.hint == "run make setup on this machine"


def test_a_build_for_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / cpu_features.STAMP_NAME).write_text('{"machine": "s390x", "cpu_features": []}')
    with pytest.raises(StartError, match=f"built for s390x, and this machine is {platform.machine()}"):
        cpu_features.check_build_cpu(tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"machine": "x86_64", "cpu_features": 3}'])
def test_a_damaged_stamp_is_refused_by_its_path(tmp_path: Path, damage: str) -> None:
    stamp = tmp_path / cpu_features.STAMP_NAME
    stamp.write_text(damage)
    with pytest.raises(StartError, match="is damaged") as caught:
        cpu_features.check_build_cpu(tmp_path)
    assert str(stamp) in caught.value.message


def test_a_build_without_a_stamp_is_not_judged(tmp_path: Path) -> None:
    cpu_features.check_build_cpu(tmp_path)


def test_a_build_without_ggml_native_needs_the_generic_features_and_those_it_names() -> None:
    present = frozenset(["avx", "avx2", "fma", "bmi1", "avx512f", "avx512_vnni", "amx_int8"])
    assert cpu_features.build_features("-DGGML_CUDA=on", present) == present
    assert cpu_features.build_features("-DGGML_NATIVE=OFF", present) == {"avx", "avx2", "fma"}
    with_avx512 = cpu_features.build_features("-DGGML_NATIVE=off -DGGML_AVX512=ON", present)
    assert with_avx512 == {"avx", "avx2", "fma", "avx512f", "avx512_vnni"}


def test_a_build_with_the_kernels_of_all_processors_needs_none_of_their_features() -> None:
    present = frozenset(["avx2", "avx512f"])
    options = "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
    assert cpu_features.build_features(options, present) == frozenset()
    assert cpu_features.build_features(options.replace("VARIANTS=ON", "VARIANTS=OFF"), present) == {"avx2"}


def test_the_check_does_not_import_what_it_checks() -> None:
    code = (
        "import sys; from takeoff.models.cpu_features import check_build_cpu, find_build; check_build_cpu();"
        "print(find_build().name, 'llama_cpp' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "llama_cpp False\n"
