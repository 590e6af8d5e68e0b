import pytest
from markdown_it import MarkdownIt
from results_factory import HOSTILE, HOSTILE_REASON, SHA, table_of_results

from fmbench.report import markdown
from fmbench.report.table import build


@pytest.fixture(scope="module")
def parser():
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline(tokens):
    return [child for token in tokens for child in (token.children or [])]


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE, HOSTILE_REASON, "a|b", "**bold**", "_x_", "`code`", "[a](http://b)", "&lt;", "\\", "a\\|b", "~~no~~",
        "~~~", "```", "<!--", "# x", "1. x", "- x", "+ x", "2) x", "===", "---", "![a](b)", "<http://x>", "*", "@team",
        "x@y.z", "$x$",
    ],
)  # fmt: skip
def test_any_text_reads_as_itself(parser, text):
    table = f"| a | b |\n|---|---|\n| {markdown.escape(text)} | end |\n"
    cells = [
        c.content for t in parser.parse(table) for c in (t.children or []) if c.type not in ("text", "text_special")
    ]
    assert cells == []
    texts = ["".join(c.content for c in t.children) for t in parser.parse(table) if t.type == "inline"]
    assert texts == ["a", "b", text, "end"]
    item = parser.parse(f"- {markdown.escape_line(text)}\n")
    assert [t.type for t in item if t.type.endswith("_open")] == [
        "bullet_list_open",
        "list_item_open",
        "paragraph_open",
    ]
    assert ["".join(c.content for c in t.children) for t in item if t.type == "inline"] == [text]


def test_links_and_mentions_are_broken_for_github_too():
    shown = markdown.escape("http://evil.example www.evil.example @somebody a@b.example")
    assert "http://" not in shown
    assert "www." not in shown
    assert "@" not in shown


def test_the_readme_has_every_row_and_no_foreign_markup(parser):
    tables = build(table_of_results() + table_of_results("digits", "image"), 8)
    text = markdown.render(tables)
    tokens = parser.parse(text)
    blocks = {t.content.split(">")[0].split(" (")[0] for t in tokens if t.type == "html_block"}
    assert blocks <= {
        "<!-- Written by `fmbench leaderboard build` from the files in results/. Do not edit. --",
        "<details",
        "</details",
    }
    assert [t for t in inline(tokens) if t.type in ("html_inline", "image")] == []
    links = {t.attrs["href"] for t in inline(tokens) if t.type == "link_open"}
    assert links == {"index.html", "tables"}
    assert sum(t.type == "tr_open" for t in tokens) == 2 * (1 + len(table_of_results()))
    shown = ["".join(c.content for c in t.children) for t in tokens if t.type == "inline"]
    assert shown.count(HOSTILE) == 2


def test_the_caption_says_what_the_numbers_are():
    text = markdown.render(build(table_of_results(), 8))
    for fact in ("W2 @8", "n = 5,000", "5 evaluation seeds", SHA[:12], "AMD EPYC 9354", "Student t", "17 of 5000"):
        assert fact in text
    assert "**data**" in text
    assert "one step only" not in text.partition("<details>")[0]


def test_without_results_it_says_how_to_make_some():
    assert "fmbench run quick" in markdown.render({})
