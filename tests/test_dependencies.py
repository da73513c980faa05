"""What the package imports is what pyproject.toml asks for: nothing comes by chance with another library."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Libraries that are imported by another name than they are installed by.
INSTALLED_AS = {
    "cv2": "opencv-python-headless",
    "imblearn": "imbalanced-learn",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Imported where it is there, and not asked for: who wants it is told to install it.
OPTIONAL = {"planetary-computer"}
# Asked for, and imported by others: torch's exporter and its TensorBoard writer, and what timm and smp need.
FOR_OTHERS = {"onnxscript", "tensorboard", "torchvision"}


def named(requirements: list[str]) -> set[str]:
    """The libraries of requirements such as `ray[tune]>=2.40`."""
    return {re.split(r"[\[<>=!~; ]", line)[0].lower().replace("_", "-") for line in requirements}


def asked() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return named([*project["dependencies"], *(line for extra in extras for line in extra)])


def imported() -> dict[str, str]:
    """Library → a file that imports it, at its top or within a function."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "src/raremap").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for module in modules:
                top = module.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "raremap":
                    found.setdefault(
                        INSTALLED_AS.get(top, top.replace("_", "-")), str(path.relative_to(ROOT))
                    )
    return found


def test_every_import_is_asked_for():
    known = asked() | OPTIONAL
    assert {library: path for library, path in imported().items() if library not in known} == {}


def test_everything_that_is_asked_for_is_imported():
    assert asked() - set(imported()) == FOR_OTHERS


def test_what_is_asked_for_is_locked():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = named([line for line in lines if line[:1].isalnum()])
    assert asked() - locked == {"torchgeo", "terratorch"}  # extras that the development environment has not
