import re
from pathlib import Path

import pytest
from tests.setup.shell import ROOT, Machine

RUNS = "exit 0"
FAILS = "echo 'pyenv: command not found' >&2; exit 127"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_python_that_runs_is_taken(machine: Machine) -> None:
    machine.program("python3.14", FAILS)  # a shim without a Python behind it
    machine.program("python3.13", RUNS)
    machine.program("python3.11", RUNS)
    assert machine.run("find_python").stdout == "python3.13\n"


def test_python_is_the_one_that_was_asked_for(machine: Machine) -> None:
    machine.program("python3.13", RUNS)
    path = machine.program("my python", RUNS)
    assert machine.run("find_python", PYTHON=str(path)).stdout == f"{path}\n"


def test_a_python_that_was_asked_for_and_does_not_run_is_refused(machine: Machine) -> None:
    machine.program("python3.13", RUNS)
    ran = machine.run("ensure_python; echo reached", PYTHON="/nowhere/python")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: PYTHON=/nowhere/python is not a working Python 3.11 to 3.14\n"


@pytest.mark.parametrize(
    ("function", "manager", "line"),
    [
        (
            "ensure_python",
            "apt-get",
            "Python 3.11 to 3.14 is missing: install the package"
            " python3 python3-venv with apt-get, as root, and",
        ),
        (
            "ensure_compiler",
            "apt-get",
            "a C++ compiler is missing: install the package g++ with apt-get, as root, and",
        ),
        (
            "ensure_compiler",
            "dnf",
            "a C++ compiler is missing: install the package gcc-c++ with dnf, as root, and",
        ),
        ("ensure_compiler", None, "a C++ compiler is missing: install the package g++ and"),
        (
            "ensure_browser",
            "apt-get",
            "Chromium, which the tests look at the pages with, is missing: install the package"
            " chromium chromium-driver with apt-get, as root, and",
        ),
    ],
)
def test_what_is_missing_is_named_in_one_line_to_one_who_is_not_root(
    machine: Machine, function: str, manager: str | None, line: str
) -> None:
    if manager:
        machine.program(manager, RUNS)
    ran = machine.run(f"{function}; echo reached")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: {line} run this again\n"
    assert [call for call in machine.calls if not call.startswith("id ")] == []


def test_root_gets_a_missing_compiler_installed_and_is_told(machine: Machine) -> None:
    machine.become_root()
    machine.program("apt-get", RUNS)
    ran = machine.run("ensure_compiler; echo reached")
    assert ran.stdout == "reached\n"
    assert ran.stderr == "a C++ compiler is missing: installing g++ with apt-get\n"
    assert machine.calls[-1].endswith(" install -y --no-install-recommends g++")


def test_a_package_manager_that_fails_is_quoted(machine: Machine) -> None:
    machine.become_root()
    machine.program("dnf", "echo 'No space left on device'; exit 1")
    ran = machine.run("ensure_compiler; echo reached")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.endswith("No space left on device\nerror: dnf could not install gcc-c++\n")


def test_any_compiler_on_path_will_do(machine: Machine) -> None:
    machine.program("clang++", RUNS)
    ran = machine.run("ensure_compiler; echo reached")
    assert (ran.stdout, ran.stderr) == ("reached\n", "")


MAKES_A_VENV = """
for last; do :; done
mkdir -p "$last/bin"
printf '#!/bin/sh\\nexit 0\\n' >"$last/bin/python"
chmod +x "$last/bin/python"
"""


@pytest.mark.parametrize(
    ("tool", "call"),
    [("virtualenv", "virtualenv -p python3.12 {venv}"), ("uv", "uv venv --seed --python python3.12 {venv}")],
)
def test_without_the_venv_module_virtualenv_or_uv_make_the_environment(
    machine: Machine, tool: str, call: str
) -> None:
    machine.program("python3.12", '[ "$1" = -c ]')  # neither -m venv nor -m virtualenv
    machine.program(tool, MAKES_A_VENV)
    machine.borrow("chmod")
    ran = machine.run("make_venv; echo made")
    assert (ran.stdout, ran.stderr) == ("made\n", "")
    assert machine.calls[-1] == call.format(venv=machine.folder / "venv")


def test_without_any_way_to_make_an_environment_the_package_is_named(machine: Machine) -> None:
    machine.program("python3.12", '[ "$1" = -c ] || exit 1; case $2 in *print*) echo python3.12-venv ;; esac')
    machine.program("apt-get", RUNS)
    ran = machine.run("make_venv")
    assert ran.returncode == 1
    package = "install the package python3.12-venv with apt-get, as root,"
    assert ran.stderr == f"error: Python's venv module is missing: {package} and run this again\n"


@pytest.mark.parametrize(
    ("cores", "free_kb", "jobs"),
    [(2, 24_000_000, 2), (16, 7_000_000, 4), (8, 900_000, 1), (4, 1_500_000, 1), (4, 3_000_000, 2)],
)
def test_jobs_are_limited_by_cores_and_free_memory(
    machine: Machine, cores: int, free_kb: int, jobs: int
) -> None:
    meminfo = machine.folder / "meminfo"
    meminfo.write_text(f"MemTotal:  99999999 kB\nMemAvailable: {free_kb} kB\n")
    machine.program("nproc", f"echo {cores}")
    assert machine.run("build_jobs", MEMINFO=str(meminfo)).stdout == f"{jobs}\n"


def test_the_number_of_jobs_can_be_given(machine: Machine) -> None:
    machine.program("nproc", "echo 8")
    assert machine.run("build_jobs", CMAKE_BUILD_PARALLEL_LEVEL="3").stdout == "3\n"


def test_the_native_entry_of_the_lock_is_split_off_whole(machine: Machine) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entry = machine.run(f'native_entry "{ROOT}/requirements.lock"').stdout
    others = machine.run(f'other_entries "{ROOT}/requirements.lock"').stdout
    assert re.fullmatch(r"llama-cpp-python==\S+ \\\n    --hash=sha256:[0-9a-f]{64}\n", entry)
    assert lock.replace(entry, "", 1) == others


def test_cmake_args_are_remembered_until_given_anew(machine: Machine) -> None:
    (machine.folder / "venv").mkdir()
    (machine.folder / "venv" / ".cmake-args").write_text("-DGGML_CUDA=on")
    script = 'remember_cmake_args; echo "[$CMAKE_ARGS]"'
    assert machine.run(script).stdout == "[-DGGML_CUDA=on]\n"
    assert machine.run(script, CMAKE_ARGS="-DGGML_VULKAN=on").stdout == "[-DGGML_VULKAN=on]\n"
    assert machine.run(script, CMAKE_ARGS="").stdout == "[]\n"


def test_what_is_set_up_for_development_is_current_for_serving_and_not_the_reverse(machine: Machine) -> None:
    (machine.folder / "venv").mkdir()
    script = 'stamp_of() { echo "of ${1##*/}"; }; for kind in serve dev cluster; do is_current $kind && '
    script += "echo $kind; done; true"
    assert machine.run(script).stdout == ""
    (machine.folder / "venv" / ".set-up-serve").write_text("of requirements.lock")
    assert machine.run(script).stdout == "serve\n"
    (machine.folder / "venv" / ".set-up-dev").write_text("of requirements-dev.lock")
    (machine.folder / "venv" / ".set-up-serve").unlink()
    assert machine.run(script).stdout == "serve\ndev\n"
    (machine.folder / "venv" / ".set-up-dev").write_text("of a lock of last week")
    assert machine.run(script).stdout == ""
    (machine.folder / "venv" / ".set-up-cluster").write_text("of requirements-cluster.lock")
    assert machine.run(script).stdout == "cluster\n"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("serve", "requirements.lock"),
        ("dev", "requirements-dev.lock"),
        ("cluster", "requirements-cluster.lock"),
    ],
)
def test_each_kind_of_environment_has_a_lock(machine: Machine, kind: str, name: str) -> None:
    assert machine.run(f"lock_file {kind}").stdout == f"{ROOT / name}\n"
    assert (ROOT / name).is_file()


def test_the_tests_of_the_cluster_run_in_an_environment_of_their_own(machine: Machine) -> None:
    python = machine.folder / ".venv-cluster" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(machine.program("cluster-python", 'echo "ran $*"'))
    fake = 'set_up() { echo "set up $1 in ${venv##*/}"; }; set_up_tests() { echo "set up too much"; }'
    fake += "; ensure_clients() { echo clients; }"
    ran = machine.run(f"{fake}; here={machine.folder}; main test-cluster -k name")
    assert (ran.returncode, ran.stderr) == (0, "")
    *made, tests = ran.stdout.splitlines()
    assert made == ["clients", "set up cluster in .venv-cluster"]
    assert tests.startswith("ran -m pytest --cluster tests/cluster tests/clients/test_openai.py")
    assert tests.endswith(" -k name")


def test_a_build_takes_its_place_with_its_wheel_and_its_record_and_nothing_of_its_work(
    machine: Machine,
) -> None:
    python = machine.folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    build = ': >"$TMPDIR/object.o"; : >"$TMPDIR/../llama.whl"'
    fake = f'case "$*" in *" wheel "*) {build} ;; *) : >"${{!#}}/stamp" ;; esac'
    python.symlink_to(machine.program("pip", fake))
    machine.program("nproc", "echo 2")
    machine.borrow("env", "mv", "tr")
    folder = machine.folder / "build"
    ran = machine.run(f'build_native "{folder}"; echo reached')
    assert (ran.returncode, ran.stdout) == (0, "reached\n")
    assert {path.name for path in folder.iterdir()} == {"llama.whl", "stamp", "requirement.txt"}
    assert not (machine.folder / "build.partial").exists()


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_no_wheel(machine: Machine) -> None:
    python = machine.folder / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(
        machine.program("pip", "echo '[3/9] cc'; echo 'fatal error: cc1plus was killed'; exit 1")
    )
    machine.program("nproc", "echo 2")
    machine.borrow("env", "mv", "tr")
    folder = machine.folder / "build"
    ran = machine.run(f'build_native "{folder}"; echo reached')
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "about five minutes on two cores" in ran.stderr
    ending = f"fatal error: cc1plus was killed\nerror: the native build failed; its log is {folder}.log\n"
    assert ran.stderr.endswith(ending)
    assert not folder.exists()


def test_the_lock_of_a_process_that_died_is_taken_over_where_flock_is_missing(machine: Machine) -> None:
    lock = machine.folder / "venv.lock.d"
    lock.mkdir()
    (lock / "pid").write_text("99999999\n")
    ran = machine.run('lock 9 "$venv"; cat "$venv.lock.d/pid"; echo $$; unlock 9 "$venv"')
    owner, ours = ran.stdout.split()
    assert owner == ours
    assert not lock.exists()


def test_an_unknown_verb_is_answered_with_the_verbs_there_are(machine: Machine) -> None:
    ran = machine.run("main tset")
    assert ran.returncode == 1
    verbs = "serve, test, test-cluster, chaos, soak, fuzz, check, or none to set up"
    assert ran.stderr == f"error: unknown verb tset: it is one of {verbs}\n"


@pytest.mark.parametrize("target", ["serve", "test", "test-cluster", "check"])
def test_a_make_target_is_the_verb_of_the_same_name(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:\n\t@\./setup\.sh {target}( \$\(ARGS\))?$", makefile, re.MULTILINE)


def test_all_locks_name_the_same_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==[^ ]+", (ROOT / name).read_text(), re.MULTILINE))

    runtime = pins("requirements.lock")
    assert len(runtime) > 20
    assert runtime <= pins("requirements-dev.lock") <= pins("requirements-cluster.lock")
    assert [pin for pin in pins("requirements-cluster.lock") if pin.startswith("ray==")]
    assert not [pin for pin in pins("requirements-dev.lock") if pin.startswith("ray==")]
