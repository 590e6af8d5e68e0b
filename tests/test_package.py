"""The built wheel carries the zoo, claims one top-level name, and works away from the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("flow_matching_bench-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_claims_only_fmbench(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fmbench"}
    assert any(name.endswith("zoo/digits/ot-cfm/model.safetensors") for name in names)
    assert any(name.endswith("protocols/quick.toml") for name in names)
    assert not [name for name in names if "/.units" in name or name.endswith((".tmp", ".pt"))]


@pytest.mark.slow
def test_the_wheel_works_elsewhere(wheel, tmp_path):
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel],
        check=True,
        capture_output=True,
    )

    def fmbench(*words):
        code = f"import sys; sys.path.insert(0, {str(target)!r}); from fmbench.cli import main; sys.exit(main({list(words)!r}))"
        return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)

    listed = fmbench("list", "entries")
    assert "digits/ot-cfm" in [line.split()[0] for line in listed.stdout.splitlines()]
    where = fmbench("info", "digits/ot-cfm", "--json")
    assert str(target) in where.stdout
    ran = fmbench("run", "quick", "-m", "gaussian-moons/cfm", "--limit", "32", "--out", "here")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "here" / "index.html").is_file()
