"""The house rules of docs/developing.md: who may call whom, how large things may grow, how docstrings open.

Each rule is a function from sources to violations, `file:line: what is wrong`. It is asked of the project,
where there must be none, and of a few planted lines, where there must be one.
"""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each floor may import those below it.  Rooms of one floor: "a | b" do not import one another, "a, b" may.
FLOORS = """
    types, errors, progress, version, kernels
    given
    layer, files, compiled
    backend | data
    classifier | images
    network | exact
    supervised
    model
    sklearn, robustness, torch
    studies
    public
    ckncuda
    cli
"""
FLOOR_OF = {
    room: number for number, line in enumerate(FLOORS.split("\n")) for room in re.findall(r"\w+", line)
}
APART = [set(re.findall(r"\w+", line)) for line in FLOORS.split("\n") if "|" in line]

# Package -> paths of the files that may import it.
COMPILED, CUPY = r".*/compiled/", r"ckncuda/backend/(cupy/|(arrays|linear_algebra)\.py)"
WELCOME = {
    **{"numba": COMPILED, "llvmlite": COMPILED, "cupy": CUPY, "cupyx": CUPY},
    **{"click": "cli/", "torch": "ckncuda/torch/"},
}

LOOSE_FILES = 6
FILE_LINES = 450
FUNCTION_LINES = 60
PARAMETERS = 9

# Openings that leave the reader to guess what is spoken of.
OPENINGS = re.findall(
    r"\w+",
    "Also And As At Because Beside Beyond But By For From How If In Like Of On Or Out Per So Such Than That "
    "Then Those Through To Under Up Upon What When Where Whether Which Whose With Within Without",
)


class Source:
    """A Python file: its path from the root, its tree, and the module that it is once installed."""

    def __init__(self, path, text):
        self.path, self.lines, self.tree = path, text.count("\n"), ast.parse(text)
        names = path.removesuffix(".py").removesuffix("/__init__").split("/")
        self.module = ".".join(names if names[0] == "ckncuda" else ["ckncuda", *names])
        self.package = self.module if path.endswith("__init__.py") else self.module.rpartition(".")[0]

    def imports(self):
        """Pairs (line, module or name in it) of all imports, those in functions and for type checkers too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
                base = [*above, *filter(None, [node.module])] if node.level else [node.module]
                yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                yield from ((node.lineno, a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def room_of(module):
    """The folder, or the loose file, below ckncuda; ckncuda for its public names."""
    return module.split(".")[1] if "." in module else module


def project(*tops):
    """The sources below some folders."""
    paths = sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))
    return [Source(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in paths]


LIBRARY = project("ckncuda", "cli", "kernels")


def arrows(sources):
    """Triples (source, line, module) of imports of the project's own modules."""
    modules = {source.module for source in sources} | {f"ckncuda.{room}" for room in FLOOR_OF} | {"ckncuda"}
    for source in sources:
        for line, name in source.imports():
            if name.split(".")[0] == "ckncuda":
                while name not in modules:
                    name = name.rpartition(".")[0]
                yield source, line, name


def upward(sources):
    for source, line, module in arrows(sources):
        here, there = room_of(source.module), room_of(module)
        if there not in FLOOR_OF or here not in FLOOR_OF:
            unknown = there if there not in FLOOR_OF else here
            yield f"{source.path}:{line}: {unknown} has no floor: give it one in {Path(__file__).name}"
        elif FLOOR_OF[there] > FLOOR_OF[here]:
            yield f"{source.path}:{line}: imports {module}, but {there} is above {here}"
        elif here != there and {here, there} in APART:
            yield f"{source.path}:{line}: imports {module}, but {here} and {there} do not know one another"


def circles(sources):
    graph = {source.module: set() for source in sources}
    for source, _, module in arrows(sources):
        if module != source.module:
            graph[source.module].add(module)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"modules import one another in a circle: {' <- '.join(error.args[1])}"


def packages_elsewhere(sources):
    for source in sources:
        for line, name in source.imports():
            package = name.split(".")[0]
            if not re.match(WELCOME.get(package, ""), source.path):
                yield f"{source.path}:{line}: imports {package}"


def many_loose_files(sources):
    loose = [s.path for s in sources if re.fullmatch(r"ckncuda/\w+\.py", s.path)]
    if len(loose) > LOOSE_FILES:
        yield f"ckncuda:1: {len(loose)} loose files, more than {LOOSE_FILES}: {', '.join(loose)}"


def long_files(sources):
    for source in sources:
        if source.lines > FILE_LINES:
            yield f"{source.path}:{source.lines}: the file has more than {FILE_LINES} lines"


def long_functions(sources):
    for source in sources:
        for node in ast.walk(source.tree):
            length = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length > FUNCTION_LINES:
                yield f"{source.path}:{node.lineno}: {node.name} has {length} lines"


def decorated(node, word):
    return any(word in ast.unparse(decorator) for decorator in node.decorator_list)


def parameters_of(node):
    """Count what a function takes, without the self of a method, or a dataclass of its own fields."""
    if isinstance(node, ast.FunctionDef):
        taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        return sum(parameter.arg not in ("self", "cls") for parameter in taken)
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
    taken = [field for field in fields if "ClassVar" not in field and "init=False" not in field]
    return len(taken) if decorated(node, "dataclass") else 0


def many_parameters(sources):
    for source in sources:
        owner = {m: c for c in ast.walk(source.tree) if isinstance(c, ast.ClassDef) for m in c.body}
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if source.path.startswith("cli/") and decorated(node, "command"):
                continue
            told = ast.get_docstring(node) or ""
            if node.name == "__init__" and node in owner:
                told += ast.get_docstring(owner[node]) or ""
            count = parameters_of(node)
            if count > PARAMETERS and not re.search(r"More than nine (parameters|fields): \w+", told):
                yield f"{source.path}:{node.lineno}: {node.name} takes {count}; its docstring must say why"


def docstrings(source):
    """Pairs (line, text) of docstrings: of modules, classes, functions, and of attributes below them."""
    for node in ast.walk(source.tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str):
                yield statement.lineno, statement.value.value


def guessed_subjects(sources):
    for source in sources:
        for line, text in docstrings(source):
            opening = re.match(r"\W*(\w*)", text)[1]
            if opening in OPENINGS:
                shown = text.strip().partition("\n")[0]
                yield f"{source.path}:{line}: a docstring opens with {opening!r}: {shown[:60]}"


# A rule, a source that keeps it but for one line, and what the violation says.
PLANTED = [
    (upward, "ckncuda/layer/x.py", "def f():\n    from ckncuda.model import Model\n", "x.py:2: imports"),
    (circles, "ckncuda/layer/x.py", "if TYPE_CHECKING:\n    from ckncuda.layer.y import z\n", "circle"),
    (packages_elsewhere, "ckncuda/backend/numpy/x.py", "import numba\n", "x.py:1: imports numba"),
    (packages_elsewhere, "ckncuda/model/x.py", "from click import echo\n", "x.py:1: imports click"),
    (packages_elsewhere, "ckncuda/images/x.py", "import cupy as cp\n", "x.py:1: imports cupy"),
    (packages_elsewhere, "ckncuda/model/x.py", "import torch.nn\n", "x.py:1: imports torch"),
    (many_loose_files, "ckncuda/x.py", "", "7 loose files"),
    (long_files, "cli/x.py", "\n" * (FILE_LINES + 1), "more than 450 lines"),
    (long_functions, "cli/x.py", "def f():\n" + "    pass\n" * FUNCTION_LINES, "x.py:1: f has 61 lines"),
    (many_parameters, "cli/x.py", "def f(a, b, c, d, e, f, g, h, i, *, j): ...\n", "x.py:1: f takes 10"),
    (guessed_subjects, "kernels/x.py", '"""Of what?"""\n', "x.py:1: a docstring opens with 'Of'"),
]
RULES = dict.fromkeys(rule for rule, *_ in PLANTED)
BESIDE = [
    Source("ckncuda/layer/y.py", "from ckncuda.layer import x\n"),
    Source("ckncuda/backend/numpy/compiled/loops.py", "import numba\nfrom llvmlite import ir\n"),
    Source("ckncuda/backend/cupy/__init__.py", "import cupy\n"),
    Source("ckncuda/backend/arrays.py", "import cupy\n"),
    Source("ckncuda/torch/layer.py", "import torch\n"),
    Source("cli/main.py", '"""Print what there is."""\nimport click\n\nfrom ckncuda import __version__\n'),
    *(Source(f"ckncuda/{name}.py", "") for name in ("__init__", "a", "b", "c", "d", "e")),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule):
    violations = list(rule(LIBRARY))
    assert not violations, "\n".join(["see docs/developing.md", *violations])


@pytest.mark.parametrize(
    ("rule", "path", "text", "said"), PLANTED, ids=lambda of: getattr(of, "__name__", "")
)
def test_a_rule_sees_what_is_planted_and_nothing_else(rule, path, text, said):
    assert list(rule(BESIDE)) == []
    (violation,) = rule([Source(path, text), *BESIDE])
    assert said in violation


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("ckncuda/network/x.py", "from ckncuda.exact.gram import gram"),
        ("ckncuda/classifier/x.py", "import ckncuda.images.sources"),
        ("ckncuda/studies/x.py", "from ckncuda.cli import main"),
        ("ckncuda/studies/x.py", "from ckncuda import load"),
        ("ckncuda/backend/x.py", 'importlib.import_module("ckncuda.model")'),
        ("ckncuda/attic/x.py", "from ckncuda.errors import CknError"),
    ],
)
def test_upward_and_sideward_imports_of_every_form_are_seen(path, line):
    assert len(list(upward([Source(path, line)]))) == 1


def test_more_parameters_are_allowed_for_a_reason_that_is_given():
    function = "def f(a, b, c, d, e, f, g, h, i, j):\n    '''Do it.\n\n    {}\n    '''\n"
    reason = "More than nine parameters: each is one of the user's choices."
    assert list(many_parameters([Source("ckncuda/x.py", function.format(reason))])) == []
    assert list(many_parameters([Source("ckncuda/x.py", function.format("More than nine parameters."))]))


def test_a_dataclass_takes_its_fields():
    fields = "".join(f"    field_{i}: int = 0\n" for i in range(10))
    source = "@dataclass(frozen=True)\nclass Wide:\n    '''Many.'''\n    n: ClassVar[int] = 3\n" + fields
    assert "Wide takes 10" in next(many_parameters([Source("ckncuda/x.py", source)]))
