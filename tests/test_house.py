"""The house rules of the project, each checked on the sources, and each shown to fail on a planted fault.

A rule is a function from modules to a list of faults. An exception stands in a table below, with its reason.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.planted.planting import PATCHES, fits, parsed

import farebox

ROOT: Final = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 50
PUBLIC_NAMES_MAX: Final = 15

ROOMS: Final = ("errors", "domain", "metering", "billing", "store", "provider", "web", "sandbox")
ENGINE: Final = frozenset({"errors", "domain", "ports"})
MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    "errors": frozenset({"errors"}),
    "domain": frozenset({"errors", "domain"}),
    "ports": frozenset({"errors", "domain"}),
    "metering": ENGINE | {"metering"},
    "billing": ENGINE | {"billing"},
    "store": ENGINE | {"store"},
    "provider": ENGINE | {"provider"},
    "web": ENGINE | {"metering", "billing", "web"},
    "sandbox": frozenset({"sandbox"}),
    "system": frozenset(),
    "starter": frozenset(),
    "logs": frozenset(),
    "loops": frozenset({"errors"}),
    "threads": frozenset(),
    "configtable": frozenset(),
    "configplans": frozenset({"domain", "configtable"}),
    "configroutes": frozenset({"domain", "configtable"}),
    "configfile": frozenset({"domain", "configtable", "configplans", "configroutes"}),
    "tomlplaces": frozenset(),
    "configschema": frozenset({"configfile"}),
    "configcheck": frozenset({"errors", "domain", "configfile", "configschema", "configtable", "tomlplaces"}),
    "config": frozenset({"errors", "domain", "configcheck"}),
    "metrics": ENGINE | {"metering"},
    "terminal": frozenset({"errors", "billing"}),
    "roles": frozenset({"errors", "ports"}),
    "background": ENGINE | {"metering", "billing", "config", "loops", "roles", "system", "threads"},
    "app": ENGINE
    | {
        "metering",
        "billing",
        "store",
        "provider",
        "web",
        "config",
        "loops",
        "metrics",
        "system",
        "background",
        "threads",
    },
    "protect": frozenset({"errors", "domain", "app", "config", "logs", "web"}),
}
"""Rooms and yard modules not named here stand at the top (cli, demo, smoke, testing, the door): they may import all
but the sandbox, which only SANDBOX_STARTERS may."""
SANDBOX_STARTERS: Final = frozenset({"cli", "testing", "__main__"})

LAZY_IMPORTS: Final = {
    "farebox.app": "the Stripe SDK takes a second to load, and most commands never call Stripe",
    "farebox.__main__": "the local Stripe starts without the rest of Farebox",
    "farebox.sandbox.http": "httpx takes as long to load as all else, and nothing is sent at the start",
}
LONG_FUNCTIONS: Final = {
    "farebox.store.migrations.versions.0001_first_ledger.upgrade": "a schema reads best in one piece",
    "farebox.sandbox.checkout._create": "one Stripe object, spelled out",
    "farebox.sandbox.subscriptions.build_subscription": "one Stripe object, spelled out",
    "farebox.sandbox.drafts.new_invoice": "one Stripe object, spelled out",
    "farebox.sandbox.schedules._create": "one Stripe object, spelled out",
}
TIME_AND_CHANCE: Final = {
    "farebox.system": "the real Clock and Entropy",
    "farebox.sandbox.clock": "the sandbox's own clock",
    "farebox.sandbox.ids": "the sandbox's own ids",
}
TIME_NAMES: Final = frozenset({"time", "random", "secrets", "uuid"})
MONEY_ROOMS: Final = frozenset({"domain", "metering", "billing"})
UNITS: Final = ("_MAX", "_MIN", "_SECONDS", "_MILLISECONDS", "_BYTES", "_CHARACTERS")


@dataclass(frozen=True, slots=True)
class Module:
    """A source file under its dotted name."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else "farebox"


Rule = Callable[[list[Module]], list[str]]


def sources() -> list[Module]:
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path.read_text()))
    return found


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is imported from farebox, as dotted names, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def functions(tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions at the top of a module."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node


def the_import_table_holds(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        for target, line in imports(module.tree):
            parts = target.split(".")
            if parts[0] != "farebox" or len(parts) < 2:
                continue
            room, wanted = module.room, parts[1]
            allowed = MAY_IMPORT.get(room)
            if wanted == "sandbox" and room not in SANDBOX_STARTERS | {"sandbox"}:
                faults.append(f"{module.name}:{line} starts the sandbox")
            elif allowed is not None and wanted not in allowed | {room}:
                faults.append(f"{module.name}:{line} imports {wanted}")
    return faults


def only_the_provider_knows_stripe(modules: list[Module]) -> list[str]:
    return [
        f"{module.name}:{line} imports the stripe SDK"
        for module in modules
        for target, line in imports(module.tree)
        if target.split(".")[0] == "stripe" and module.room != "provider"
    ]


def there_are_no_circles(modules: list[Module]) -> list[str]:
    names = {module.name for module in modules}
    edges = {m.name: {t for t in imported_modules(m.tree, names) if t != m.name} for m in modules}
    done: set[str] = set()
    faults: list[str] = []

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            faults.append(" → ".join((*way[way.index(name) :], name)))
        elif name not in done:
            for target in sorted(edges[name]):
                visit(target, (*way, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())
    return faults


def imported_modules(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """The modules that an import names: the package's door only when what is taken from it is no module of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else str(node.module)


def imports_stand_at_the_top(modules: list[Module]) -> list[str]:
    return [
        f"{module.name}:{inner.lineno} imports inside {name}"
        for module in modules
        if module.name not in LAZY_IMPORTS
        for name, function in functions(module.tree)
        for inner in ast.walk(function)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    ]


def modules_and_functions_are_small(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        lines = module.text.count("\n")
        if lines > MODULE_LINES_MAX:
            faults.append(f"{module.name} has {lines} lines")
        for name, function in functions(module.tree):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES_MAX and f"{module.name}.{name}" not in LONG_FUNCTIONS:
                faults.append(f"{module.name}.{name} has {length} lines")
    return faults


def only_the_clock_knows_the_time(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        if module.name in TIME_AND_CHANCE:
            continue
        faults += [
            f"{module.name}:{line} imports {target}"
            for target, line in imports(module.tree)
            if target.split(".")[0] in TIME_NAMES
        ]
        faults += [
            f"{module.name}:{node.lineno} asks the machine for the time"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
        ]
    return faults


def only_the_terminal_prints(modules: list[Module]) -> list[str]:
    return [
        f"{module.name}:{node.lineno} prints"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def money_is_never_a_float(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        if module.room not in MONEY_ROOMS:
            continue
        for node in ast.walk(module.tree):
            constant = isinstance(node, ast.Constant) and isinstance(node.value, float)
            name = isinstance(node, ast.Name) and node.id == "float"
            if constant or name or divides(node):
                faults.append(f"{module.name}:{getattr(node, 'lineno', 0)} touches a float")
    return faults


def divides(node: ast.AST) -> bool:
    """True division makes floats of integers. Milliseconds to seconds is allowed: it is time, not money."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Div):
        return False
    return not (isinstance(node.right, ast.Constant) and node.right.value == 1000)


SQL_WORDS: Final = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA ", "CREATE ")
SQL_FROM_CONSTANTS: Final = {
    "farebox.store.sqlite": "PRAGMA takes no bound values; these are made of this module's own constants"
}


def sql_is_not_built_from_strings(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        if module.name in SQL_FROM_CONSTANTS or module.room != "store":
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.JoinedStr):
                first = node.values[0] if node.values else None
                if isinstance(first, ast.Constant) and str(first.value).lstrip().upper().startswith(SQL_WORDS):
                    faults.append(f"{module.name}:{node.lineno} builds SQL from a string")
    return faults


def only_config_reads_the_environment(modules: list[Module]) -> list[str]:
    return [
        f"{module.name}:{node.lineno} reads the environment"
        for module in modules
        if module.name != "farebox.config"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    ]


def bounds(modules: Iterable[Module]) -> Iterator[tuple[str, str]]:
    """Module constants that bound something, by the unit at the end of their names."""
    for module in modules:
        for node in module.tree.body:
            for name in assigned_by(node):
                if name.isupper() and not name.startswith("_") and name.endswith(UNITS):
                    yield module.name, name


def every_bound_is_listed(modules: list[Module]) -> list[str]:
    listed = (ROOT / "docs" / "why" / "limits.md").read_text()
    return [f"{module}.{name} is not in docs/why/limits.md" for module, name in bounds(modules) if name not in listed]


def every_module_says_what_it_is_for(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        text = ast.get_docstring(module.tree)
        if not text:
            faults.append(f"{module.name} does not say what it is for")
        elif module.name != "farebox.errors" and text.count("\n") > 9:
            faults.append(f"{module.name} says it in {text.count(chr(10)) + 1} lines")
    return faults


UNDOCUMENTED_ROOMS: Final = frozenset({"sandbox"})


def public_names_are_documented(modules: list[Module]) -> list[str]:
    """Public classes say what they are; errors speak by their title, values by their fields."""
    faults = []
    for module in modules:
        if module.room in UNDOCUMENTED_ROOMS or module.room == "errors" or ".migrations" in module.name:
            continue
        for name, node in public_functions(module.tree):
            assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            says = ast.get_docstring(node) is not None
            short = isinstance(node, ast.ClassDef) and node.bases
            tiny = (node.end_lineno or 0) - node.lineno < 8
            if not says and not short and not tiny:
                faults.append(f"{module.name}.{name} has no docstring")
    return faults


def all_names_what_is_public(modules: list[Module]) -> list[str]:
    faults = []
    for module in modules:
        tree = module.tree
        listed: list[str] = []
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                listed = ast.literal_eval(node.value)
        if module.name == "farebox" or ".migrations" in module.name or module.name.endswith("__main__"):
            continue
        faults += [
            f"{module.name}.__all__ lacks {name}"
            for name, node in public_functions(tree)
            if name not in listed and not is_command(node)
        ]
        defined = {name for name, _ in public_functions(tree)} | set(assigned(tree)) | imported(tree)
        faults += [f"{module.name}.__all__ names {name}, which is not there" for name in listed if name not in defined]
    return faults


def is_command(node: ast.AST) -> bool:
    """Whether the command line calls it by its decorator: nobody imports it."""
    return any(
        isinstance(d, ast.Call) and isinstance(d.func, ast.Attribute) and d.func.attr in ("command", "callback")
        for d in getattr(node, "decorator_list", ())
    )


def assigned(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        yield from assigned_by(node)


def assigned_by(node: ast.stmt) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def imported(tree: ast.Module) -> set[str]:
    return {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}


def planted(name: str, text: str) -> list[Module]:
    return [Module(name, text)]


PLANTED: Final[list[tuple[Rule, list[Module]]]] = [
    (the_import_table_holds, planted("farebox.metering.gate", "from farebox.store.sql import SqlStore")),
    (the_import_table_holds, planted("farebox.domain.keys", "import farebox.ports")),
    (the_import_table_holds, planted("farebox.web.routes", "from farebox.sandbox import Sandbox")),
    (the_import_table_holds, planted("farebox.demo", "from farebox.sandbox import Sandbox")),
    (the_import_table_holds, planted("farebox.sandbox.http", "from farebox.errors import NotFound")),
    (only_the_provider_knows_stripe, planted("farebox.billing.claim", "import stripe")),
    (
        there_are_no_circles,
        [Module("farebox.a", "import farebox.b"), Module("farebox.b", "from farebox.a import x")],
    ),
    (imports_stand_at_the_top, planted("farebox.web.routes", "def f():\n    import json")),
    (modules_and_functions_are_small, planted("farebox.a", "x = 1\n" * 401)),
    (modules_and_functions_are_small, planted("farebox.a", "def f():\n" + "    x = 1\n" * 50)),
    (only_the_clock_knows_the_time, planted("farebox.billing.claim", "from datetime import datetime\ndatetime.now()")),
    (only_the_clock_knows_the_time, planted("farebox.billing.claim", "import time")),
    (only_the_clock_knows_the_time, planted("farebox.billing.claim", "from uuid import uuid4")),
    (only_the_terminal_prints, planted("farebox.web.routes", "print(1)")),
    (money_is_never_a_float, planted("farebox.domain.rating", "x = 0.5")),
    (money_is_never_a_float, planted("farebox.billing.invoices", "def f(a): return a / 2")),
    (money_is_never_a_float, planted("farebox.metering.sealer", "x = float('1')")),
    (sql_is_not_built_from_strings, planted("farebox.store.usage", 'def f(x): return f"select {x}"')),
    (only_config_reads_the_environment, planted("farebox.app", "import os\nos.environ['X']")),
    (every_bound_is_listed, planted("farebox.web.limits", "NOWHERE_LISTED_BYTES_MAX: int = 1")),
    (every_module_says_what_it_is_for, planted("farebox.web.limits", "x = 1")),
    (public_names_are_documented, planted("farebox.web.limits", "def f():\n" + "    x = 1\n" * 9)),
    (all_names_what_is_public, planted("farebox.web.limits", "__all__ = []\ndef f(): ...")),
    (all_names_what_is_public, planted("farebox.web.limits", '__all__ = ["gone"]')),
]
RULES: Final = sorted({rule for rule, _ in PLANTED}, key=lambda rule: rule.__name__)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    """Every module of the product keeps the rule."""
    assert rule(sources()) == []


@pytest.mark.parametrize(("rule", "modules"), PLANTED, ids=[rule.__name__ for rule, _ in PLANTED])
def test_a_planted_fault_is_found(rule: Rule, modules: list[Module]) -> None:
    """Each rule can fail: a module that breaks it on purpose is named."""
    assert rule(modules)


def test_exceptions_are_still_needed() -> None:
    """An exception that no longer excepts anything is removed."""
    modules = {module.name: module for module in sources()}
    for full in LONG_FUNCTIONS:
        module, _, name = full.rpartition(".")
        lengths = [(f.end_lineno or 0) - f.lineno + 1 for n, f in functions(modules[module].tree) if n == name]
        assert max(lengths, default=0) > FUNCTION_LINES_MAX, full
    for name in (*LAZY_IMPORTS, *TIME_AND_CHANCE, *SQL_FROM_CONSTANTS):
        assert name in modules


def test_the_public_door_is_narrow() -> None:
    """What `import farebox` offers is listed, exists, and is at most 15 names."""
    assert len(farebox.__all__) <= PUBLIC_NAMES_MAX
    assert all(hasattr(farebox, name) for name in farebox.__all__)
    assert sorted(farebox.__all__) == list(farebox.__all__)


def test_the_package_is_typed() -> None:
    """Type checkers read Farebox's own annotations in a seller's project."""
    assert Path(farebox.__file__).with_name("py.typed").exists()


def test_every_test_says_its_promise() -> None:
    """A test's docstring is the promise it keeps."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for folder in ("tests", "examples")
        for path in sorted((ROOT / folder).rglob("test_*.py"))
        for name, node in functions(ast.parse(path.read_text()))
        if name.startswith("test_") and ast.get_docstring(node) is None
    ]
    assert silent == []


def test_every_planted_bug_fits() -> None:
    """Where the code has moved, its planted bug (tests/planted) is renewed with it and still turns its tests red."""
    patches = [parsed(file.name, file.read_text()) for file in sorted(PATCHES.glob("*.patch"))]
    assert [fault for patch in patches for fault in fits(patch)] == []
