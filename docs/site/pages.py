"""Pages of the site. The repository's files keep their paths, so a link that works there works here too.

Some pages are made from other files: notebooks, recipes, the API from its docstrings, and lists of recipes and results.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
GITHUB = "https://github.com/"
BESIDE_DOCS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")

SECTIONS = {
    "forward": "Run a model",
    "programs": "Run a model",
    "parallel": "Parts, and where they run",
    "generation": "Generate text",
    "sampling": "Generate text",
    "errors": "Errors",
}
"""Headings for the names of `prism_jax`, by the module or package that defines them."""

FAMILIES = ("bert", "roberta", "distilbert", "vit", "deit", "dinov2", "gpt2", "llama", "qwen2", "qwen3")
PACKAGES = {
    "models": ("auto", "base.Model", *FAMILIES),
    "weights": ("load", "export", "Pretrained"),
    "data": (
        *("load", "DATASETS", "datasets.Labelled", "datasets.Corpus", "datasets.Cloze"),
        *("text.load_tokenizer", "text.tokenize", "images.load_processor", "images.process"),
    ),
    "tasks": ("prepare", "base.Task", "likelihood.log_likelihoods", "likelihood.continuations"),
    "cost": ("formula", "compiled_from_shapes", "compiled", "Cost", "memory", "compiled_memory", "Memory"),
    "metrics": ("scores.METRICS", "scores.Metric", "scores.score", "scores.difference", "scores.recovery"),
    "experiments": ("recipe", "build.load_data", "build.load_training_data", "build.load_model"),
    "testing": ("check_exchange", "random_params"),
}
"""Objects and modules on the page of each package."""


def on_config(config: MkDocsConfig) -> None:
    """Gives the repository the address that links begin with: without the end that `git clone` takes too."""
    url = (config.repo_url or "").rstrip("/").removesuffix(".git")
    if f"{url}/".startswith(GITHUB) and not re.fullmatch("[^/]+/[^/]+", url[len(GITHUB) :]):
        raise PluginError(f"REPO_URL is {url!r}; give {GITHUB}OWNER/NAME")
    config.repo_url = url


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the files of the site, from those of docs/ and of the theme."""
    own = [file for file in files if file.src_dir == config.docs_dir]
    placed = {f"docs/{file.src_uri}": Path(file.abs_src_path or "") for file in own}
    cards = (str(path.relative_to(ROOT)) for path in ROOT.glob("configs/adapters/*/README.md"))
    placed |= {name: ROOT / name for name in (*BESIDE_DOCS, *cards)}
    made: dict[str, str | bytes] = {**dict(api_pages()), **dict(recipe_pages())}
    made["docs/results/README.md"] = results_page()
    for path, source in placed.items():
        if source.suffix == ".ipynb":
            made |= notebook_page(Path(path), source, config.repo_url or "")
    return Files(
        [
            *(file for file in files if file not in own),
            *(File.generated(config, path, abs_src_path=str(source)) for path, source in placed.items()),
            *(File.generated(config, path, content=content) for path, content in made.items()),
        ]
    )


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Leads links to recipes, notebooks and folders to their pages."""
    here = (ROOT / page.file.src_uri).parent

    def to_page(link: re.Match[str]) -> str:
        target = link[1]
        if (here / target).is_dir():
            return f"]({target}/README.md)"
        return f"]({re.sub(r'[.](py|ipynb)$', '.md', target)})"

    return re.sub(r"\]\((?!https?:)([^)#\s]+)\)", to_page, markdown)


def notebook_page(path: Path, source: Path, repo_url: str) -> dict[str, str | bytes]:
    """Returns the page of a notebook and its pictures, by path. Colab opens what lies on GitHub."""
    markdown, resources = MarkdownExporter().from_filename(str(source))
    title, _, rest = markdown.partition("\n")
    links = [f'<a class="md-button" href="../{source.name}" download>Download the notebook</a>']
    if repo_url.startswith(GITHUB):
        opened = f"https://colab.research.google.com/github/{repo_url.removeprefix(GITHUB)}/blob/main/{path}"
        links.insert(0, f'<a class="md-button" href="{opened}">Open in Colab</a>')
    note = "\n\n" + " ".join(links) + "\n"
    pictures = {f"{path.parent / path.stem}_{name}": content for name, content in resources["outputs"].items()}
    for name in resources["outputs"]:
        rest = rest.replace(f"({name})", f"({path.stem}_{name})")
    return {str(path.with_suffix(".md")): title + note + rest, **pictures}


def recipe_pages() -> Iterator[tuple[str, str]]:
    """Yields a page for each file in configs/, and their list."""
    listed = ["# Recipes", "", "A recipe begins with its commands, its weights and the results to expect.", ""]
    listed += ["| recipe | |", "|---|---|"]
    for source in sorted((ROOT / "configs").rglob("*.py")):
        path, code = source.relative_to(ROOT), source.read_text()
        yield str(path.with_suffix(".md")), f"# {path}\n\n```python\n{code}```\n"
        summary = (ast.get_docstring(ast.parse(code)) or "").split("\n")[0]
        listed.append(f"| [{path.relative_to('configs').with_suffix('')}]({path.relative_to('configs')}) | {summary} |")
    yield "configs/README.md", "\n".join(listed)


def results_page() -> str:
    """Returns the list of the stored reports and records."""
    top = ROOT / "docs" / "results"
    lines = ["# Stored results", "", "Reports and records. [Measured](../measured.md) sums them up."]
    for group in sorted(path for path in top.iterdir() if path.is_dir()):
        lines += ["", f"## {group.name}", ""]
        for folder in sorted({path.parent for path in group.rglob("*") if path.suffix in (".md", ".json")}):
            files = [*folder.glob("README.md"), *sorted(folder.glob("*.json"))]
            links = [f"[{path.name.replace('README.md', 'report')}]({path.relative_to(top)})" for path in files]
            lines.append(f"- {folder.relative_to(top)}: {', '.join(links)}")
    return "\n".join(lines)


def api_pages() -> Iterator[tuple[str, str]]:
    """Yields a page for `prism_jax`, and one for each of its packages that is public."""
    names, exchanges = imported("prism_jax"), imported("prism_jax/exchange")
    packages = {name for name, path in names.items() if path == f"prism_jax.{name}"}
    others = {name: path.split(".")[1] for name, path in names.items() if name not in {*packages, *exchanges}}
    if unknown := (packages ^ {*PACKAGES, "exchange"}) | (set(others.values()) - set(SECTIONS)):
        raise PluginError(f"PACKAGES and SECTIONS in {__file__} must follow prism_jax.__all__: {', '.join(unknown)}")
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS.values()}
    for name, module in others.items():
        by_section[SECTIONS[module]].append(documented(names[name], f"pj.{name}", 3))
    content = [f"## {section}\n\n" + "\n".join(blocks) for section, blocks in by_section.items()]
    yield "api/prism_jax.md", "# prism_jax\n\n    import prism_jax as pj\n\n" + "\n".join(content)
    blocks = [documented(path, f"pj.{name}" if name in names else name, 2) for name, path in exchanges.items()]
    yield "api/exchange.md", "# prism_jax.exchange\n\n" + "\n".join(blocks)
    for package, members in PACKAGES.items():
        blocks = [documented(f"prism_jax.{package}.{member}", f"{package}.{member}", 2) for member in members]
        yield f"api/{package}.md", f"# prism_jax.{package}\n\n" + "\n".join(blocks)


def imported(package: str) -> dict[str, str]:
    """Returns the path of each name in `__all__` of a package, as its imports give it."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    paths = {alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    (listed,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node))
    public = ast.literal_eval(listed)
    return {name: path for name, path in paths.items() if name in public}


def documented(path: str, heading: str, level: int) -> str:
    """Returns the block that mkdocstrings fills with the docstrings of an object."""
    return f"::: {path}\n    options:\n      heading: {heading}\n      heading_level: {level}\n"
