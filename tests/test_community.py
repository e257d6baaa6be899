"""The license, the citation, the changelog and the settings of GitHub agree with the rest of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import mobileclip2

ROOT = Path(__file__).parents[1]
VERSION = mobileclip2.__version__


def test_citation_and_changelog_have_the_current_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest
    assert citation["version"] == newest[1] == VERSION
    assert str(citation["date-released"]) == newest[2]


def test_security_policy_supports_the_version():
    supported = re.findall(r"^\| (\d+\.\d+) \| yes \|$", (ROOT / "SECURITY.md").read_text(), re.M)
    assert VERSION.rpartition(".")[0] in supported


def test_license_equals_the_apache_license_of_the_demo():
    apache = (ROOT / "demo" / "licenses" / "Apache-2.0.txt").read_text()
    assert (ROOT / "LICENSE").read_text().strip() == apache.strip()


def test_notice_names_every_set_of_drawings_with_its_license():
    notice = (ROOT / "NOTICE").read_text()
    rows = re.findall(
        r"^\| `[\w-]+` \| (.+?) \| (.+?) \| \S+ \| (\S+) .*\|$", (ROOT / "demo" / "ATTRIBUTION.md").read_text(), re.M
    )
    assert len(rows) == 7
    for name, authors, license in rows:
        assert re.search(rf"^ *{re.escape(name)} +{re.escape(authors)} +{re.escape(license)}$", notice, re.M), name


def test_dependabot_directories_contain_dependency_files():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    places = {update["package-ecosystem"]: ROOT / update["directory"].lstrip("/") for update in updates}
    assert (places["pip"] / "pyproject.toml").is_file()
    assert (places["docker"] / "Dockerfile").is_file()
    assert list((places["github-actions"] / ".github" / "workflows").glob("*.yml"))
