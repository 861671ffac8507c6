"""Two import-linter contracts, used by ``[tool.importlinter]`` in pyproject.toml.

``only``: some packages import nothing but a short list. The contracts that come with import-linter
name what is forbidden; a pure core is told by what is allowed.

``home``: some libraries are imported in a few packages only. Unlike import-linter's ``protected`` it
also holds while nobody imports the library yet.
"""

from __future__ import annotations

from collections.abc import Iterable

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """Modules below ``importers`` import directly only each other and what is ``allowed``."""

    type_name = "only"

    importers = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        importers = _names(self.importers)
        allowed = [*_names(self.allowed), *importers]
        links = [(module, imported) for module, imported in _links(graph) if _inside(module, importers)]
        return _verdict(graph, [link for link in links if not _inside(link[1], allowed)])

    def render_broken_contract(self, check: ContractCheck) -> None:
        _render(check)


class HomeContract(Contract):
    """``libraries`` are imported directly only by modules below ``homes``."""

    type_name = "home"

    libraries = fields.ListField(subfield=fields.StringField())
    homes = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        libraries, homes = _names(self.libraries), _names(self.homes)
        links = [(module, imported) for module, imported in _links(graph) if _inside(imported, libraries)]
        return _verdict(graph, [link for link in links if not _inside(link[0], homes)])

    def render_broken_contract(self, check: ContractCheck) -> None:
        _render(check)


def _names(field: object) -> list[str]:
    """The value that import-linter put where the class declares a field."""
    assert isinstance(field, list)
    return [str(name) for name in field]


def _links(graph: ImportGraph) -> Iterable[tuple[str, str]]:
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            yield module, imported


def _inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _verdict(graph: ImportGraph, broken: list[tuple[str, str]]) -> ContractCheck:
    lines = [
        f"{importer} -> {imported} (l.{_line(graph, importer, imported)})" for importer, imported in broken
    ]
    return ContractCheck(kept=not lines, metadata={"broken": lines})


def _line(graph: ImportGraph, importer: str, imported: str) -> int:
    details = graph.get_import_details(importer=importer, imported=imported)
    return min(detail["line_number"] for detail in details)


def _render(check: ContractCheck) -> None:
    for line in check.metadata["broken"]:
        output.print_error(f"- {line}", bold=False)
    output.new_line()
