"""Rules for the whole project: light imports, names exported once, documents that agree with the code."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from commands import HANGS_AFTER_S

import alexnet_deploy
from alexnet_deploy.cli import app
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.core.process.installation import install_command

ROOT = Path(__file__).parents[2]
ROOMS = ("alexnet_deploy", "train", "export", "engines")

NOT_FOR_PREDICTION = (
    *("torch", "onnx", "matplotlib", "jinja2", "tensorrt", "tensorrt_rtx_bindings", "pycuda", "cuda"),
    *("fsspec", "aiohttp"),
)

# Makes installed libraries look as if they were not installed.
WITHOUT = """
import importlib.machinery, sys
find_spec = importlib.machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in {missing!r} else find_spec(name, path, target)
importlib.machinery.PathFinder.find_spec = find_others
"""

IMPORTED = """
import sys
import alexnet_deploy
for name in alexnet_deploy.__all__:
    getattr(alexnet_deploy, name)
print(*{large!r} & sys.modules.keys())
"""


def in_python(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, check=False, timeout=HANGS_AFTER_S, text=True
    )


def command_without(missing: tuple[str, ...], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = f"{WITHOUT.format(missing=missing)}\nfrom alexnet_deploy.cli import main; main()"
    return in_python(program, *arguments)


# Imports


def test_public_names_load_no_engine_and_no_trainer() -> None:
    large = {"torch", "onnx", "onnxruntime", "openvino", "tensorrt", "matplotlib", "jinja2", "typer", "rich", "fsspec"}
    done = in_python(IMPORTED.format(large=large))
    assert done.stderr == ""
    assert done.stdout == "\n"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_prediction_needs_one_engine_and_nothing_else(backend: str, bundle: Bundle, images: Path) -> None:
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[backend]
    done = command_without((*NOT_FOR_PREDICTION, other), "predict", images / "a.jpg", "--bundle", bundle.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{images}/a.jpg")
    assert f", on {backend} " in done.stderr


def test_check_needs_no_trainer_and_says_what_it_left_out(bundle: Bundle) -> None:
    done = command_without(NOT_FOR_PREDICTION, "check", bundle.path)
    assert done.returncode == 0, done.stderr
    said = "not done: the graph's constants were not checked: onnx is not installed; run `pip install onnx`\n"
    assert said in done.stderr


def test_missing_library_is_named_with_what_brings_it(bundle: Bundle, loaded: LoadedWeights, tmp_path: Path) -> None:
    out = tmp_path / "new.bundle"
    for missing, arguments, sentence in (
        ("torch", ["train", tmp_path], "this command needs torch, which is not installed; `pip install "),
        ("onnx", ["inspect", bundle.path / "model.onnx"], "this command needs onnx, which is not installed; `pip inst"),
        ("onnx", ["check", bundle.path, "--layers"], "this command needs onnx, which is not installed; `pip install "),
        ("jinja2", ["export", loaded.path, "--out", out], "this command needs jinja2, which is not installed; `pip i"),
    ):
        done = command_without((missing,), *arguments)
        assert done.returncode == 3
        assert done.stdout == ""
        said = done.stderr.splitlines()[-1]
        assert said.startswith(f"error: {sentence}")
        assert f"; `{install_command('train')}` installs it" in said
        assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_url_without_its_library_is_refused_before_the_first_row(bundle: Bundle, images: Path) -> None:
    done = command_without(("fsspec",), "predict", images, "https://127.0.0.1/a.jpg", "--bundle", bundle.path)
    assert done.returncode == 2
    assert done.stdout == ""
    words = f"needs fsspec, which is not installed; `{install_command('remote')}` installs it"
    assert done.stderr == f"error: https://127.0.0.1/a.jpg: {words}\n"


def test_prediction_without_any_engine_says_what_brings_one(bundle: Bundle) -> None:
    done = command_without(("openvino", "onnxruntime"), "predict", "a.jpg", "--bundle", bundle.path)
    assert done.returncode == 3
    assert done.stderr == f"error: no engine is installed; run `{install_command('cpu')}`\n"


# Names and sizes


def test_public_names_are_exported_once() -> None:
    names = alexnet_deploy.__all__
    assert names == sorted(set(names))
    for name in names:
        value = getattr(alexnet_deploy, name)
        assert name == "__version__" or value.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'find_inputs'"):
        alexnet_deploy.find_inputs  # type: ignore[attr-defined]  # noqa: B018


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse(Path(alexnet_deploy.__file__).read_text())
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    (guarded,) = (branch for branch in branches if ast.unparse(branch.test) == "TYPE_CHECKING")
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(seen) == alexnet_deploy.__all__
    for name, module in seen.items():
        assert getattr(alexnet_deploy, name) is getattr(sys.modules[str(module)], name)


def test_version_is_the_changelog_s_newest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert entries[0] == project["version"] == alexnet_deploy.__version__


def test_no_file_of_the_rooms_is_long() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 40
    long = {str(path): num_lines for path in files if (num_lines := len(path.read_text().splitlines())) > 400}
    assert long == {}


# README


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `alexnet-deploy` command in the text's fenced blocks; shell operators end one."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\$ )?\S*alexnet-deploy(\s|$)", line):
                continue
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";|&<>")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in (*lexer, ";"):
                if set(word) <= set(";|&<>"):
                    if command and Path(command[0]).name == "alexnet-deploy":
                        yield command[1:]
                    command = []
                else:
                    command.append(word)


def parse(arguments: list[str]) -> list[str]:
    """Parse the arguments like the program, and return the commands that would run; raises what Typer raises."""
    group = typer.main.get_command(app)
    would_run: list[str] = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        command.callback = lambda *, _command=name, **_: would_run.append(_command)
    group.main([argument for argument in arguments if argument != "--debug"], standalone_mode=False)
    return would_run


def test_nothing_in_the_pages_is_left_to_be_filled_in() -> None:
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert not re.search(r"@@|TODO|FIXME|XXX", page.read_text()), page


def test_every_page_that_is_linked_to_is_there() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def dangling_sections(text: str) -> list[str]:
    """Return the links to sections of the same page that it does not have; GitHub makes the names of headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return [name for name in re.findall(r"\]\(#([^)]+)\)", text) if name not in names]


def test_every_section_that_is_linked_to_is_there() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert dangling_sections(page.read_text()) == [], page.name
    assert dangling_sections("[a](#b-1s), [c](#d)\n## B: `1`'s\n") == ["d"]


PATH_OF_CODE = re.compile(r"(?<![\w./-])((?:\.\./)?(?:[\w-]+/)+[\w-]+\.py)\b")


def missing_code(page: str) -> list[str]:
    """Return the paths of code in a page of docs/ that lie neither in the checkout nor in the package's folder."""
    roots = (ROOT, ROOT / "docs", ROOT / "alexnet_deploy")
    return [path for path in PATH_OF_CODE.findall(page) if not any((root / path).is_file() for root in roots)]


def test_code_that_the_pages_name_is_there() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        assert missing_code(page.read_text()) == [], page.name


def test_code_that_is_not_there_is_found_out() -> None:
    page = "`train/run.py`, core/names.py, (core/work.py), ../train/run.py, `tests/fuzz.py`: https://x.org/a/b.py"
    assert missing_code(page) == ["core/work.py", "tests/fuzz.py"]


def test_every_command_in_the_readme_and_the_docs_is_one_that_there_is() -> None:
    commands = list(commands_in((ROOT / "README.md").read_text()))
    of_docs = [one for page in sorted((ROOT / "docs").glob("*.md")) for one in commands_in(page.read_text())]
    assert len(of_docs) > 10
    for arguments in (*commands, *of_docs):
        assert len(parse(arguments)) == 1, arguments
    # The three commands of the design.
    for arguments in (["train"], ["predict", "images/"]):
        assert arguments in commands
    assert any(arguments[:2] == ["export", "--precision"] for arguments in commands)


README = """
alexnet-deploy outside of any block
```console
$ alexnet-deploy train
drawn: 600 training images
next: alexnet-deploy export
$ .venv/bin/alexnet-deploy --debug predict images/ --format jsonl | head -1 && alexnet-deploy check   # and more
$ alexnet-deploy export \\
    --views center > path.txt
```

```python
import alexnet_deploy
```
"""


def test_commands_are_found_where_they_are() -> None:
    assert list(commands_in(README)) == [
        ["train"],
        ["--debug", "predict", "images/", "--format", "jsonl"],
        ["check"],
        ["export", "--views", "center"],
    ]
    assert [parse(arguments) for arguments in commands_in(README)] == [["train"], ["predict"], ["check"], ["export"]]


@pytest.mark.parametrize(
    "line", ["forecast", "train --precision fp32", "predict", "export --views nine", "check a b", "--quiet train"]
)
def test_command_that_there_is_not_is_found_out(line: str) -> None:
    click_error = typer.BadParameter.__mro__[2]
    assert click_error.__name__ == "ClickException"
    with pytest.raises(click_error):
        parse(line.split())


COMMAND = """
import sys
from alexnet_deploy.cli import main
sys.argv[0] = "alexnet-deploy"
try:
    main()
finally:
    print(*{"openvino", "openvino.tools.ovc.convert"} & sys.modules.keys(), file=sys.stderr)
"""


def test_predict_leaves_the_converter_of_openvino_alone(bundle: Bundle, images: Path) -> None:
    done = in_python(COMMAND, "predict", images, "--bundle", bundle.path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "openvino")


def test_predict_calls_nobody_and_starts_no_process(bundle: Bundle, images: Path) -> None:
    program = """
import sys
sys.addaudithook(lambda event, _: event.startswith(("socket.", "subprocess.", "os.fork")) and print(event))
from alexnet_deploy import load
with load(sys.argv[1]) as predictor:
    assert all(row.ok for row in predictor.predict(sys.argv[2]))
assert "openvino" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program, bundle.path, images],
        capture_output=True,
        check=True,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    assert done.stdout == ""
