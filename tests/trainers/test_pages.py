"""The pages under docs/trainers/: one network, diffs that fit, links that lead somewhere, nothing left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.trainers.pages import DOCS, PAGES, blocks, network_code, text_of, trainer_code

every_page = pytest.mark.parametrize("page", PAGES)


def test_every_page_is_in_the_index() -> None:
    """And has a test, which the list below is to remind of."""
    assert set(PAGES) == {"accelerate", "amp", "ddp", "fsdp2", "hf_trainer", "lightning", "plain_loop", "torchjd"}
    assert [page for page in PAGES if f"]({page}.md)" not in text_of("index")] == []


@every_page
def test_every_page_has_the_same_network(page: Any) -> None:
    assert network_code(page) == network_code("plain_loop")


@every_page
def test_a_page_says_what_it_must(page: Any) -> None:
    headings = re.findall(r"^## (.*)$", text_of(page), re.MULTILINE)
    assert headings == ["What changes", "What is equal", "Loss scaling", "Traps"]


@every_page
def test_the_diffs_lead_to_the_code(page: Any) -> None:
    assert blocks(page, "diff")
    plain = trainer_code(page, plain=True)
    assert plain != trainer_code(page, plain=False)
    assert not re.search(r"Split|WithLoss|fold|edition", plain), "the plain loop must be without the package's losses"


def test_every_link_leads_somewhere() -> None:
    for page in [*DOCS.glob("trainers/*.md"), DOCS / "migrate.md"]:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
                assert anchor[1:] in slugs, f"{page.name}: {anchor}"
