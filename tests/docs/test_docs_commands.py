"""Every command, Python program and configuration file that README and docs/ show is run, in order.

A page is run in a folder of its own, on small data in the formats that it names.  What cannot be run here is
in `NOT_RUN`, with the reason; its options are read as the command reads them all the same.
"""

import re
import shlex
import shutil
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import threadpoolctl
from click.testing import CliRunner

from ckncuda.cli.commands import cli
from ckncuda.supervised.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results.md"  # written by bench/results.py, which runs its commands
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {RESULTS})]

# What a command is or holds -> why it is not run
NOT_RUN = {
    "make": "its targets install from the network, or take minutes",
    "pip install": "installs from the network",
    "python3 -m venv": "what follows is run in the environment of the tests",
    ". .venv/bin/activate": "what follows is run in the environment of the tests",
    "ckn demo": "tests/studies/test_demo.py runs it, and it takes ten seconds",
    "--backend cupy": "there may be no GPU",
    "--workers": "tests/exact/test_workers.py and tests/cli/test_gram_cluster.py start processes",
    "--scheduler": "there is no cluster at this address",
}
NEEDS_PYTORCH = re.compile(r"^(?:import|from) (?:ckncuda\.)?torch\b", re.MULTILINE)
SHORTER = {  # the first system is fitted all the same; of trainings two epochs
    "--time 30min": "--time 1s",
    "--epochs 30": "--epochs 2",
    "--epochs 20": "--epochs 2",
    "--preset supervised": "--preset supervised --epochs 2",
    "--preset chen5": "--preset chen5 --epochs 1",
    "--end-to-end -o": "--end-to-end --epochs 2 -o",
}


def shown(page):
    """Triples (language, text, line) of the fenced blocks of a page; commands have no language."""
    text = page if isinstance(page, str) else page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield block[1], block[2], text.count("\n", 0, block.start()) + 2


def commands(text):
    """The command lines of a block as lists of words, without comments."""
    joined = text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def reason_not_to_run(words):
    line = " ".join(words)
    return next((why for what, why in NOT_RUN.items() if f" {what} " in f" {line} "), None)


def check_options(words):
    """Read the options of `ckn …` as the command does, or look up what is to be made or installed."""
    if words[0] == "ckn":
        command = cli.commands[words[1]]
        command.make_context(f"ckn {words[1]}", words[2:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\w+", words[2])) <= set(extras), words


def run_command(words):
    """Run `ckn …` in this process, to its end."""
    check_options(words)
    if reason_not_to_run(words):
        return
    assert words[0] == "ckn", f"no reason is given why this is not run: {words}"
    line = shlex.join(words[1:])
    for long, short in SHORTER.items():
        line = line.replace(long, short)
    if "--resume" in words:
        interrupt(shlex.split(line))
    done = CliRunner().invoke(cli, shlex.split(line), catch_exceptions=False)
    assert done.exit_code == 0, f"{words}: {done.output}"


def interrupt(words):
    """Run a command without its --resume, and stop it as soon as there is something to go on from."""
    place = words.index("--resume")
    save = Checkpoint.save

    def save_and_stop(checkpoint, path):
        save(checkpoint, path)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoint, "save", save_and_stop)
        CliRunner().invoke(cli, words[:place] + words[place + 2 :])
    assert Path(words[place + 1]).exists(), words


def fit_configuration(name):
    content = tomllib.loads(Path(name).read_text())
    layers = content.get("layers") or content["encoders"][0]["layers"]
    exact = ["train/", "--method", "exact"]
    images = ["Xtr.csv", "--labels", "Ytr.csv"] if "filters" in layers[0] else exact
    run_command(["ckn", "fit", *images, "--config", name, "-o", "of-a-file.ckn"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_works(page, data, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    namespace, configurations = {}, []
    # Threads of BLAS that wait for a busy core make tiny products slow; and --threads ends with the test.
    with threadpoolctl.threadpool_limits(1):
        for language, text, line in shown(page):
            if language == "":
                for words in commands(text):
                    configurations = [name for name in configurations if name not in words]
                    run_command(words)
            elif language == "python" and NEEDS_PYTORCH.search(text) and not find_spec("torch"):
                continue  # the extra of the tests does not bring it
            elif language == "python":
                exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)
            elif language == "toml":
                name = re.match(r"# (\w+\.toml)\n", text)
                assert name, f"{page}:{line}: a configuration begins with its name, such as # net.toml"
                Path(name[1]).write_text(text)
                configurations.append(name[1])
            else:
                assert language == "text", f"{page}:{line}: {language} is not run: say text"
        for name in configurations:  # those that no command of the page has fitted
            fit_configuration(name)


@pytest.mark.parametrize("line", ["ckn fit Xtr.csv -o m.ckn", "ckn gram x -o K.npy --workers 2"])
def test_an_option_that_does_not_exist_is_seen(line):
    with pytest.raises(Exception, match="--no-such"):
        run_command([*line.split(), "--no-such"])


@pytest.mark.parametrize("line", ["make nothing", "pip install [nothing]", "rm -rf /nothing", "ckn nothing"])
def test_what_cannot_be_made_installed_or_run_is_seen(line):
    with pytest.raises((AssertionError, KeyError)):
        run_command(line.split())


def test_options_on_the_page_of_results_exist():
    text = RESULTS.read_text(encoding="utf-8").replace("\n  ", "\n")  # its blocks are indented
    lines = [words for _, block, _ in shown(text) for words in commands(block)]
    assert len(lines) > 20
    for words in lines:
        check_options(words)


def options_in_prose(text):
    """All --options outside of the fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*\w", prose))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_that_the_prose_names_exist(page):
    known = {"--help", "--strict"}  # the latter is mypy's
    for command in cli.commands.values():
        for parameter in command.params:
            known.update(parameter.opts + parameter.secondary_opts)
    assert options_in_prose(page.read_text(encoding="utf-8")) <= known


def test_options_in_prose_are_found():
    prose = "`--flip` and\n```\nckn fit --json\n```\n`--no-such 1`"
    assert options_in_prose(prose) == {"--flip", "--no-such"}


def test_every_command_has_its_place_on_the_page_of_commands():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[`ckn (\w+)`\]", page, re.MULTILINE)) == set(cli.commands)


def anchors(page):
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, RESULTS], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]*)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = re.findall(r"\]\((\w[\w-]*\.md)\)", index.read_text(encoding="utf-8"))
    assert {*linked, index.name} == {page.name for page in index.parent.glob("*.md")}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
