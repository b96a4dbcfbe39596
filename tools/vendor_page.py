"""Fetches the page's vendored libraries from npm, at the versions below, and notes their digests: `python
tools/vendor_page.py`.

To update one, change its version here, run this, and run tests/serve/web/test_page_files.py and
tests/serve/web/test_markdown.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "src/newleaf/serve/web/page/vendor"
LANGUAGES = [
    *[
        "bash",
        "c",
        "cpp",
        "csharp",
        "css",
        "diff",
        "dockerfile",
        "go",
        "haskell",
        "ini",
        "java",
        "javascript",
        "json",
        "julia",
    ],
    *[
        "kotlin",
        "latex",
        "lua",
        "makefile",
        "markdown",
        "perl",
        "php",
        "powershell",
        "python",
        "r",
        "ruby",
        "rust",
        "scala",
    ],
    *["shell", "sql", "swift", "typescript", "xml", "yaml"],
]


@dataclass(frozen=True)
class Package:
    """A package of npm. `files` maps its files to ours; `ends` is put behind one of ours to make a module of
    it."""

    name: str
    version: str
    license: str
    license_file: str
    files: dict[str, str]
    ends: dict[str, str] = field(default_factory=dict)


PACKAGES = (
    Package(
        "markdown-it", "15.0.3", "MIT", "LICENSE", {"dist/browser/markdown-it.esm.min.mjs": "markdown-it.js"}
    ),
    Package(
        "temml",
        "0.13.5",
        "MIT",
        "LICENSE",
        {"dist/temml.min.js": "temml.js"},
        {"temml.js": "\nexport default temml;\n"},
    ),
    Package(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "BSD-3-Clause",
        "LICENSE",
        {"es/core.min.js": "highlight/core.js"}
        | {f"es/languages/{name}.min.js": f"highlight/{name}.js" for name in LANGUAGES},
    ),
)


def main() -> None:
    shutil.rmtree(VENDOR, ignore_errors=True)
    told = [vendored(package) for package in PACKAGES]
    (VENDOR / "vendored.json").write_text(json.dumps(told, indent=2) + "\n", "utf-8")


def vendored(package: Package) -> dict[str, object]:
    """Copy the package's files; what is told of it."""
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        source = unpacked(package, Path(folder))
        for theirs, ours in package.files.items():
            text = (source / theirs).read_text("utf-8")
            content = without_map(text) + package.ends.get(ours, "")
            target = VENDOR / ours
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, "utf-8", newline="\n")
            digests[ours] = hashlib.sha256(content.encode()).hexdigest()
        name = package.name.strip("@").replace("/", "-")
        shutil.copyfile(source / package.license_file, VENDOR / f"{name}.LICENSE")
    return {"name": package.name, "version": package.version, "license": package.license, "files": digests}


def unpacked(package: Package, folder: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=folder, check=True)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def without_map(text: str) -> str:
    """Without the line that names a source map, which is not shipped."""
    return "\n".join(line for line in text.split("\n") if not line.startswith("//# sourceMappingURL="))


if __name__ == "__main__":
    main()
