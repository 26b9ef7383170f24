"""Letters that are typed into the page of a server of pinyin: candidates, and what the keys do, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightrail.project.serving.inputs import MOST_TYPED
from tests.support.browser import CONTROL, SHIFT, Browser, browser
from tests.support.running import QUIET, lightrail
from tests.support.serving import Running, loaded, running
from tests.support.tasks import pinyin

SENTENCES = [
    "我爱北京。",
    "我去西安。",
    "先去北京。",
    "方案好。",
    "你先说。",
    "我们去北京。",
    "时间是十点。",
    "事实是失事。",
]
CURRENT = "document.getElementById('choices').ariaBusy === 'false'"
OPTIONS = "[...document.querySelectorAll('[role=option]')]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of n-grams of a few sentences."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "train.txt").write_text("\n".join(f"{own}{number}" for number, own in enumerate(SENTENCES * 5)), "utf-8")
    splits = [f"--data.{name}={folder}/train.txt" for name in ("path", "validation_path", "test_path")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        own = [
            "--data=PinyinData",
            *splits,
            "--data.split.drop_repeats=false",
            "--data.batch.size=32",
            "--trainer.log_every_n_steps=1",
        ]
        outcome = lightrail("fit", *pinyin.NGRAM, *own, *QUIET)
        assert outcome.status == 0, outcome.err
    return max((folder / "mlruns").rglob("best.ckpt"))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    with running(loaded(model)) as found:
        yield found


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(server: Running, window: Browser) -> Browser:
    window.open("about:blank", "true")
    window.look(1000, "light")
    window.open(server.url, "document.activeElement.id === 'editor'")
    return window


def candidates(page: Browser) -> list[str]:
    """Wait until those of the letters are shown, and return them."""
    page.wait(CURRENT)
    found: list[str] = page.value(f"{OPTIONS}.map(own => own.lastChild.data)")
    return found


def chosen(page: Browser) -> str:
    """Return the candidate that a screen reader says: the one that space would choose."""
    page.wait(CURRENT)
    text: str = page.value(
        "(id => id && document.getElementById(id).matches('[role=option][aria-selected=true]') ?"
        " document.getElementById(id).lastChild.data : '')(document.getElementById('editor').getAttribute("
        "'aria-activedescendant'))"
    )
    return text


def written(page: Browser) -> str:
    page.wait(CURRENT)
    text: str = page.value("document.getElementById('editor').value")
    return text


def letters(page: Browser) -> str:
    page.wait(CURRENT)
    text: str = page.value("document.getElementById('letters').textContent")
    return text


def test_sentences_then_words_and_characters_are_offered(server: Running) -> None:
    found = server.post("/candidates", {"text": "woaibeijing"}).json()["candidates"]
    assert found[0] == {"text": "我爱北京", "parts": [["我", 2], ["爱", 4], ["北", 7], ["京", 11]]}
    texts = [own["text"] for own in found]
    assert texts.index("我爱北") < texts.index("我爱") < texts.index("我")
    assert len(texts) == len({str(own) for own in found})
    of_syllable = [own["text"] for own in server.post("/candidates", {"text": "shi"}).json()["candidates"]]
    assert {"时", "是", "十", "事", "实", "失"} <= set(of_syllable)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"text": "n" * (MOST_TYPED + 1)}, 413, f"the text has 101 characters, more than {MOST_TYPED}."),
        ({"text": ""}, 400, "Send what was typed"),
        ({"text": 3}, 400, "Send what was typed"),
        ({"texts": ["ni"]}, 400, "Send what was typed"),
        ([], 400, "Send an object of JSON"),
    ],
)
def test_what_is_not_typed_is_refused(server: Running, body: object, status: int, message: str) -> None:
    answer = server.post("/candidates", body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_letters_are_read_as_they_are_typed_and_space_chooses(page: Browser) -> None:
    page.press(*"woaibeijin")
    assert candidates(page)[0] == chosen(page)
    page.press("g")
    assert (candidates(page)[0], letters(page), written(page)) == ("我爱北京", "wo ai bei jing", "")
    page.press(" ")
    assert (written(page), letters(page), candidates(page)) == ("我爱北京", "", [])
    page.press(*"womenqu", " ", ".", " ", "Enter", *"3")
    assert written(page) == "我爱北京我们去。 \n3"


def test_a_number_chooses_and_the_rest_of_the_letters_is_offered(page: Browser) -> None:
    page.press(*"woaibeijing")
    number = candidates(page).index("我爱") + 1
    page.press(str(number))
    assert (written(page), letters(page), candidates(page)[0]) == ("我爱", "bei jing", "北京")
    page.press("1")
    assert (written(page), letters(page)) == ("我爱北京", "")


def test_keys_that_are_faster_than_candidates_wait_for_them(page: Browser) -> None:
    slow = "const quick = fetch; fetch = async (...own) => { await new Promise(done => setTimeout(done, 60)); "
    page.value(f"{slow} return quick(...own); }}; 0")
    page.press(*"woqu", " ", *"xian", " ", "1")
    page.wait("document.getElementById('editor').value.endsWith('1')")
    assert written(page) == "我去先1"


def test_an_answer_that_is_late_is_dropped(page: Browser) -> None:
    """The first of three answers comes last, and a browser that ignores that it was cancelled shows it to the page."""
    page.value(
        "const quick = fetch; let number = 0; fetch = async (path, options) => { const own = number++;"
        " const answer = await quick(path, {...options, signal: undefined});"
        " if (!own) await new Promise(done => { late = done; }); return answer; }; var late; 0"
    )
    page.press(*"wom")
    assert (candidates(page)[0], letters(page)) == (chosen(page), "wo m")
    before = candidates(page)
    page.value("late(), new Promise(done => setTimeout(done, 0))")
    assert candidates(page) == before


def test_arrows_and_pages_reach_every_candidate(page: Browser) -> None:
    page.press(*"shi")
    first = candidates(page)
    assert chosen(page) == first[0]
    page.press("ArrowRight", "ArrowDown")
    assert chosen(page) == first[2]
    page.press("ArrowUp")
    assert chosen(page) == first[1]
    page.press(" ")
    assert written(page) == first[1]
    page.press(*"shishishi", "PageDown")
    second = candidates(page)
    assert (chosen(page), page.value("document.getElementById('pages').textContent")[:9]) == (second[0], "page 2 of")
    page.press("-")
    assert not set(candidates(page)) & set(second)
    page.press("=", "1")
    assert written(page) == first[1] + second[0]


def test_letters_can_be_taken_back_dropped_or_kept(page: Browser) -> None:
    page.press(*"nis", "Backspace")
    assert letters(page) == "ni"
    page.press("Escape")
    assert (written(page), letters(page), candidates(page)) == ("", "", [])
    page.press(*"KTV", "Enter")
    assert (written(page), letters(page)) == ("KTV", "")
    page.press("n", "Backspace", "Backspace")
    assert written(page) == "KT"


def test_a_selection_is_converted_again(page: Browser) -> None:
    page.press(*"woaibeijing", " ")
    assert written(page) == "我爱北京"
    page.press("ArrowLeft", "ArrowLeft")
    page.press("ArrowLeft", modifiers=SHIFT)
    page.press("Enter", modifiers=CONTROL)
    assert (letters(page), candidates(page)[0], written(page)) == ("ai", "爱", "我爱北京")
    page.press("Escape")
    assert written(page) == "我爱北京"
    page.press("End")
    page.press("Home", modifiers=SHIFT)
    page.value("document.getElementById('again').click()")
    assert letters(page) == "wo' ai' bei' jing"
    page.press(str(candidates(page).index("我") + 1), "Enter")
    assert written(page) == "我ai'bei'jing"


def test_text_that_was_not_typed_here_is_not_converted(page: Browser) -> None:
    page.press(*"wo", " ")
    assert written(page) == "我"
    page.ask("Input.insertText", text="她")
    page.press("Home", modifiers=SHIFT)
    page.press("Enter", modifiers=CONTROL)
    assert (
        page.value("document.getElementById('error').textContent") == "The letters of the selected text are not known."
    )
    page.press("ArrowLeft", "ArrowRight")
    page.press("Home", modifiers=SHIFT)
    page.press("Enter", modifiers=CONTROL)
    assert (letters(page), candidates(page)[0]) == ("wo", "我")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_everything_has_room_and_is_readable(page: Browser, width: int, scheme: str) -> None:
    page.look(width, scheme)
    page.press(*"woaibeijingwomenqubeijingxianqubeijing")
    assert candidates(page)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(f"{OPTIONS}.every(own => own.getBoundingClientRect().right <= innerWidth)")
    color, back = (
        sum(map(int, page.value(f"getComputedStyle(document.querySelector('{own}')).{name}.match(/\\d+/g)")))
        for own, name in (("#choices li", "color"), ("#writing", "backgroundColor"))
    )
    assert (color < back) == (scheme == "light")
    assert abs(color - back) > 450


def test_a_screen_reader_is_told_what_there_is(page: Browser) -> None:
    page.press(*"shi")
    assert candidates(page)
    (tree,) = (own["nodes"] for own in [page.ask("Accessibility.getFullAXTree")] if own["nodes"])
    named = {(own["role"]["value"], own.get("name", {}).get("value", "")) for own in tree if not own["ignored"]}
    assert {("textbox", "Text"), ("listbox", "Candidates"), ("button", "Convert the selection again")} <= named
    assert sum(role == "option" for role, _ in named) == len(candidates(page))


def test_the_page_needs_nothing_but_the_keyboard(page: Browser) -> None:
    page.press("Tab")
    assert page.value("document.activeElement.id") == "again"
    page.press("Tab", modifiers=SHIFT)
    page.press(*"wo", " ")
    assert written(page) == "我"
