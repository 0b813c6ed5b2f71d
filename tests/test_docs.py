"""The documentation names everything that there is, and nothing that there is not; its links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
import typer
from pydantic import BaseModel
from tests.shop import Shop
from tests.test_house import ROOT, bounds, sources

from farebox import configfile, errors
from farebox.cli import app
from farebox.config import load_settings
from farebox.metrics import registry_of
from farebox.web.collisions import BILLING_ROUTES

REFERENCE: Final = ROOT / "docs" / "reference"
PAGES: Final = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def codes(kind: type[errors.FareboxError] = errors.FareboxError) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from codes(child)


def test_every_error_code_has_its_row() -> None:
    """Each code of the tree is explained, and no code is explained that is not in the tree."""
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", page("errors.md"), re.MULTILINE))
    assert rows == set(codes())


def test_every_metric_has_its_row(shop: Shop) -> None:
    """Each metric of a running Farebox is explained, and none that it does not show."""
    registry = registry_of(
        shop.store,
        shop.clock,
        shop.runtime.recorder,
        shop.runtime.reporter,
        shop.runtime.background.reconciler,
        shop.runtime.metering.parking,
    )
    shown = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    rows = set(re.findall(r"^\| `(farebox_[a-z_]+)(?:\{[a-z,]+\})?` \|", page("metrics.md"), re.MULTILINE))
    assert rows == shown


def test_every_variable_is_explained() -> None:
    """Each environment variable that is read stands in the configuration page, and none that is not read."""
    code = (ROOT / "src" / "farebox" / "config.py").read_text()
    read = set(re.findall(r'"((?:STRIPE|FAREBOX)_[A-Z_]+)"', code)) - {"FAREBOX_SECRET_CHARACTERS_MIN"}
    rows = set(re.findall(r"^\| `((?:STRIPE|FAREBOX)_[A-Z_]+)` \|", page("configuration.md"), re.MULTILINE))
    assert rows == read


def fields(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for inner in _models_in(field.annotation):
            yield from fields(inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def test_every_setting_is_explained() -> None:
    """Each setting of farebox.toml is named in the configuration page."""
    models = [m for m in vars(configfile).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    names = {name for model in models for name in fields(model)}
    assert len(names) > 10
    text = page("configuration.md")
    assert [name for name in sorted(names) if not re.search(rf"[`\[]{name}[`\].]", text)] == []


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join(("farebox", *path, name)), command


def test_every_command_and_option_is_explained() -> None:
    """Each command has its heading, and each of its options stands in the command line's page."""
    text = page("cli.md")
    found = dict(commands(typer.main.get_command(app)))
    assert len(found) == 25
    assert [name for name in found if name not in text] == []
    options = {opt for command in found.values() for p in command.params for opt in p.opts if opt.startswith("--")}
    assert [option for option in sorted(options) if option not in text] == []
    named = set(re.findall(r"`(--[a-z-]+)", text))
    assert named - options <= {"--help", "--version"}


def test_every_route_is_explained() -> None:
    """Each of Farebox's routes stands in the HTTP page with its method."""
    text = page("http.md")
    missing = [
        f"{method} {path}" for method, path in BILLING_ROUTES if not re.search(rf"{method}\b.*{re.escape(path)}", text)
    ]
    assert missing == []


def test_no_bound_is_listed_that_is_gone() -> None:
    """docs/why/limits.md lists the bounds that there are. That all are listed is a rule of the house."""
    listed = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "why" / "limits.md").read_text(), re.MULTILINE)
    text = "\n".join(module.text for module in sources())
    assert len(listed) >= len({name for _, name in bounds(sources())})
    assert [name for name in listed if not re.search(rf"\b{name}\b", text)] == []


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file, and an anchor in it when it names one."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            dead.append(link)
    assert dead == []


def test_the_examples_of_the_file_are_read(tmp_path: Path) -> None:
    """Every whole farebox.toml shown in the documentation is one that Farebox takes."""
    shown = [
        block
        for path in PAGES
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL)
        if "[meters." in block and "[plans." in block
    ]
    assert shown
    for number, block in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        assert load_settings(environ={}, path=file).catalog.plans
