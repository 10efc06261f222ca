"""Mutated input of every reader: an error of the library's own or a valid result, in bounded time and memory.

`--fuzz 20000` tries so many mutations of each reader; see `fuzz.__main__` for one mutation again.
"""

import pytest
from fuzz.campaign import HANGS, TOO_MUCH, Limits, campaign, drawn
from fuzz.readers import READERS

NEEDS = {"gram-folder": ["zarr"], "search": ["optuna", "matplotlib"]}


@pytest.fixture(autouse=True)
def _installed(request):
    for package in (
        NEEDS.get(request.getfixturevalue("reader"), []) if "reader" in request.fixturenames else ()
    ):
        pytest.importorskip(package)


@pytest.mark.parametrize("reader", READERS)
def test_mutations_are_refused_or_valid(nursery, request, reader, record_property):
    found = campaign(nursery, reader, request.config.getoption("--fuzz") or READERS[reader].quick)
    record_property("fuzz", str(found).splitlines()[0])
    assert not found.findings, str(found)
    assert 0 < found.refused < found.mutations


@pytest.mark.parametrize("reader", READERS)
def test_seeds_are_valid(nursery, reader):
    found = campaign(nursery, reader, 100, first=-100)
    assert found.mutations > 0
    assert not found.findings, str(found)


@pytest.mark.parametrize("reader", READERS)
def test_a_mutation_depends_on_its_number_alone(reader, tmp_path):
    if reader in ("gram-folder", "search", "model"):
        pytest.skip("its seeds hold times, or take long to make")
    seeds = READERS[reader].seeds(tmp_path)
    one, again, other = (READERS[reader].mutation(drawn(reader, n, 0), seeds) for n in (7, 7, 8))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("fault", "root"),
    [
        ("_raises", "KeyError"),
        ("_crashes", "SIGSEGV"),
        ("_sleeps", "TooSlow"),
        ("_guards_all", "TooSlow"),
        ("_holds_memory", TOO_MUCH),
        ("_hangs", HANGS),
        ("_is_wrong", "Wrong"),
        ("_exits", "SystemExit"),
    ],
)
def test_a_planted_fault_is_found(nursery, fault, root):
    found = campaign(nursery, f"planted: {fault}", 4, limits=Limits(0.3, 100 << 20))
    assert {finding.root.startswith(root) for finding in found.findings} == {True}
    assert 0 < len(found.findings) < found.mutations == 4
    assert f"--only {found.findings[0].number} --write OUT" in str(found)


def test_refusals_and_results_are_no_findings(nursery):
    found = campaign(nursery, "planted: _is_right", 50)
    assert not found.findings
    assert 0 < found.refused < found.mutations == 50
