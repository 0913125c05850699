"""The environments of the tests' clients: made once, by their lock, and named when they can't be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.setup.shell import ROOT, Machine

NAME = "takeoff_client_0_7_0"
MAKES_A_VENV = """
case "$*" in
*-m*venv*) for last; do :; done
  mkdir -p "$last/bin"
  printf '#!BASH\\necho "pip $*" >>"CALLS"\\ncase "$*" in *install*) exit RESULT ;; esac\\n' >$last/bin/python
  chmod +x "$last/bin/python" ;;
*version*) echo 3.11.9 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.borrow("chmod", "basename", "tr")
    return machine


def install_python(machine: Machine, name: str, pip_exits: int) -> None:
    """An interpreter that makes environments whose pip ends so."""
    script = MAKES_A_VENV.replace("BASH", f"{machine.bin}/bash").replace("CALLS", f"{machine.folder}/calls")
    machine.program(name, script.replace("RESULT", str(pip_exits)))


def test_every_client_has_a_lock_of_full_versions_with_hashes() -> None:
    locks = sorted((ROOT / "tests" / "clients").glob("*/requirements.lock"))
    assert len(locks) >= 8
    for lock in locks:
        entries = [line for line in lock.read_text().splitlines() if line and line[0] not in " #"]
        assert entries
        assert all("==" in entry and entry.endswith("\\") for entry in entries), lock


def test_a_client_is_installed_once_from_its_lock_with_the_oldest_python(machine: Machine) -> None:
    install_python(machine, "python3.11", pip_exits=0)
    machine.program("python3.13", "exit 0")
    first = machine.run(f"make_client {NAME}")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert folder.parent == machine.folder / ".cache/takeoff/build/clients"
    assert folder.name.startswith(f"{NAME}-")
    assert first.stderr == f"installing 11 locked packages for the tests of {NAME}\n"
    (install,) = [call for call in machine.calls if call.startswith("pip") and " install " in call]
    assert "--require-hashes --no-deps --only-binary :all:" in install
    assert install.endswith(f"-r {ROOT}/tests/clients/{NAME}/requirements.lock")
    again = machine.run(f"make_client {NAME}")
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_another_python_gets_another_folder(machine: Machine) -> None:
    install_python(machine, "python3.11", pip_exits=0)
    folder = f"client_folder {NAME} python3.11"
    before = machine.run(folder).stdout
    machine.program("python3.11", "echo 3.11.10")
    assert machine.run(folder).stdout != before


def test_a_client_that_cannot_be_fetched_fails_by_name_and_is_tried_again(machine: Machine) -> None:
    install_python(machine, "python3.11", pip_exits=1)
    for _ in range(2):
        ran = machine.run(f"make_client {NAME}; echo reached")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert f"error: the client {NAME} could not be installed" in ran.stderr
    install_python(machine, "python3.11", pip_exits=0)
    assert machine.run(f"make_client {NAME} >/dev/null; echo reached").stdout == "reached\n"


def test_the_set_up_goes_on_without_a_client_and_says_so(machine: Machine) -> None:
    install_python(machine, "python3.11", pip_exits=1)
    ran = machine.run("ensure_clients; echo reached")
    assert ran.stdout == "reached\n"
    for lock in (ROOT / "tests" / "clients").glob("*/requirements.lock"):
        assert f"error: the client {lock.parent.name} could not be installed" in ran.stderr


def test_an_unknown_client_is_answered_with_those_there_are(machine: Machine) -> None:
    ran = machine.run("make_client llama_index")
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: no client is called llama_index; there are: anthropic_2_14_0 ")
