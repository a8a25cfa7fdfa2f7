"""The page in Chromium, with the bundles of models/zoo: answers, streams, errors, keys, keyboard and accessibility."""

import ast
import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.sync.client import connect

from loadtest.service_process import start_seqserve
from models.manifest import LanguagePair
from tests.e2e.test_behind_nginx import Nginx
from tests.support import bundles
from tests.support.browser import Tab
from tests.support.live_service import FULL, ROOT, run_live_service
from tests.support.pictures import encoded, picture_file

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt install chromium)")

KEY = "a-key-for-the-page"
# Those of models/zoo.
VIEWS = ("tag", "classify", "fill", "translate", "caption", "generate", "forecast", "live", "inside", "load")
CAPTIONERS = bundles.captioner, bundles.picture_captioner
expect = sync_api.expect


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_live_service(tmp_path_factory.mktemp("page"), ROOT / "models/zoo") as service:
        yield service.address.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    tab = Tab(browser, address)
    yield tab
    tab.close()


def ask(address: str, path: str, body: dict[str, Any]) -> Any:
    key = {"authorization": f"Bearer {KEY}"}  # a service without keys ignores it
    answer = httpx.post(f"{address}/{path}", json=body, headers=key, timeout=30)
    answer.raise_for_status()
    return answer.json()


def example(page: Any) -> tuple[str, str]:
    """The chosen model and the input."""
    return page.locator("select[name=model]").input_value(), page.locator("[name=inputs]").input_value()


def marks(page: Any) -> list[list[str]]:
    """The marked words with their labels."""
    found = page.locator(".answer mark:not(.outside)")
    return [
        [each.evaluate("node => node.firstChild.data"), each.locator(".label").inner_text()] for each in found.all()
    ]


def value_of(cell: Any) -> float:
    """Return the value of a cell of a heat map, which ends its name."""
    return float(cell.get_attribute("aria-label").rpartition(" ")[2])


def test_tags_are_those_of_the_route(tab: Tab) -> None:
    page = tab.open("tag")
    for model in ("pos-en", "ner-en"):
        page.locator("select[name=model]").select_option(model)
        name, text = example(page)
        entities = ask(tab.address, "v1/tag", {"model": name, "inputs": text})
        expect(page.locator(".answer mark:not(.outside)")).to_have_count(len(entities))
        wanted = [[each["word"], each.get("entity_group") or each["entity"]] for each in entities]
        assert marks(page) == wanted


def test_frames_are_merged_to_a_strip_of_seconds(tab: Tab) -> None:
    page = tab.open("tag")
    page.locator("select[name=model]").select_option("gesture")
    name, text = example(page)
    parameters = {"aggregation_strategy": "simple"}
    segments = ask(tab.address, "v1/tag", {"model": name, "inputs": json.loads(text), "parameters": parameters})
    expect(page.get_by_label("Frames")).to_have_value(text)
    parts = page.locator(".strip li")
    expect(parts).to_have_count(len(segments))
    for part, segment in zip(parts.all(), segments, strict=True):
        expect(part).to_have_text(
            f"{segment['entity_group']}{round(segment['start'], 2):g}\u2013{round(segment['end'], 2):g} s"
        )


def test_offsets_count_code_points(tab: Tab) -> None:
    page = tab.open("tag")
    page.locator("select[name=model]").select_option("ner-en")
    page.locator("[name=inputs]").fill("𝄞🎻 Barack Obama visited Berlin.")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".answer mark:not(.outside)")).to_have_count(2)
    assert [text for text, _ in marks(page)] == ["Barack Obama", "Berlin"]


def test_bars_are_the_scores_of_the_route(tab: Tab) -> None:
    page = tab.open("classify")
    for model in ("sentiment-en", "splice", "vowels"):
        page.locator("select[name=model]").select_option(model)
        name, text = example(page)
        inputs = json.loads(text) if text.startswith("[") else text
        (best, *_), *_ = ask(tab.address, "v1/classify", {"model": name, "inputs": inputs})
        expect(page.locator(".result")).to_have_text(best["label"])
        expect(page.locator(".bar-score").first).to_have_text(f"{100 * best['score']:.1f}%")


def test_labels_are_not_broken_and_a_score_of_zero_has_no_bar(browser: Any, address: str) -> None:
    tab = Tab(browser, address, viewport={"width": 360, "height": 740})
    page = tab.open("classify")
    page.locator("select[name=model]").select_option("snips")
    expect(page.locator(".bars li")).to_have_count(7)
    expect(page.get_by_text("less likely labels")).to_have_count(0)
    heights = {each.bounding_box()["height"] for each in page.locator(".bar-label").all()}
    assert len(heights) == 1
    assert page.locator(".bars").evaluate("node => node.scrollWidth <= node.clientWidth")
    scores = page.locator(".bar-score").all_inner_texts()
    widths = [each.bounding_box()["width"] for each in page.locator(".bar").all()]
    assert {width > 0 for width, score in zip(widths, scores, strict=True) if score == "0.0%"} == {False}
    tab.close()


def test_a_map_that_is_cut_says_that_it_scrolls(tab: Tab) -> None:
    page = tab.open("inside")
    page.locator("select[name=model]").select_option("splice")
    expect(page.locator(".heat tbody tr").first.locator("td")).to_have_count(60)
    for width, cut in ((360, True), (1200, False)):
        page.set_viewport_size({"width": width, "height": 740})
        expect(page.locator(".answer .hint")).to_be_visible(visible=cut)


def test_words_for_the_gap_are_those_of_the_route(tab: Tab) -> None:
    page = tab.open("fill")
    name, text = example(page)
    wanted = ask(tab.address, "v1/fill", {"model": name, "inputs": text, "parameters": {"top_k": 8}})
    expect(page.locator(".result")).to_have_text(wanted[0]["sequence"])
    assert page.locator(".bar-label").all_inner_texts() == [each["token_str"] for each in wanted]


def test_a_text_streams_and_is_that_of_the_route(tab: Tab) -> None:
    page = tab.open("generate")
    page.locator("[name=max_new_tokens]").fill("400")
    page.get_by_role("button", name="Generate").click()
    tokens = page.locator(".generated span")
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(tokens.first).to_be_attached()
    assert tokens.count() < 400
    expect(tokens).to_have_count(400)
    name, prompt = example(page)
    parameters = {"max_new_tokens": 400, "temperature": 0.8, "seed": 7}
    wanted = ask(tab.address, "v1/generate", {"model": name, "inputs": prompt, "parameters": parameters})
    assert page.locator(".generated").text_content() == prompt + wanted["generated_text"]


def test_a_text_can_be_stopped(tab: Tab) -> None:
    page = tab.open("generate")
    page.locator("[name=max_new_tokens]").fill("4000")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".generated span").nth(5)).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".answer").get_by_text("Stopped after")).to_be_visible()
    assert page.locator(".generated span").count() < 4000


def test_a_tune_has_a_picture_and_a_midi_file(tab: Tab, tmp_path: Path) -> None:
    page = tab.open("generate")
    page.locator("select[name=model]").select_option("folk-abc")
    roll = page.locator(".roll rect")
    expect(roll.first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as MIDI").click()
    content = Path(download.value.path()).read_bytes()
    assert content.startswith(b"MThd\x00\x00\x00\x06")
    assert content.count(b"\x90") >= roll.count()  # one event for each note that begins


def test_the_fan_is_the_forecast_of_the_route(tab: Tab) -> None:
    page = tab.open("forecast")
    page.locator("[name=horizon]").fill("5")
    page.get_by_role("button", name="Run").click()
    rows = page.locator(".answer tbody tr")
    expect(rows).to_have_count(5)
    name, text = example(page)
    parameters = {"prediction_length": 5, "quantile_levels": [0.1, 0.9]}
    body = {"model": name, "inputs": [{"target": json.loads(text)}], "parameters": parameters}
    (found,) = ask(tab.address, "v1/forecast", body)["predictions"]
    page.get_by_text("As a table").click()
    shown = [[float(cell) for cell in row.locator("td").all_inner_texts()] for row in rows.all()]
    wanted = zip(range(1, 6), found["mean"], found["0.1"], found["0.9"], strict=True)
    assert shown == [pytest.approx(row, abs=0.006) for row in wanted]
    expect(page.locator(".answer svg .area")).to_have_count(1)


def test_a_translation_is_that_of_the_route_and_has_its_attention(tab: Tab) -> None:
    page = tab.open("translate")
    name, text = example(page)
    search = {"num_beams": 5, "num_return_sequences": 3, "details": True}
    body = {"model": name, "inputs": text, "parameters": {"generate_parameters": search}}
    best, *others = ask(tab.address, "v1/translate", body)
    expect(page.locator(".result")).to_have_text(best["translation_text"])
    page.get_by_text("Other translations").click()
    for item, other in zip(page.locator(".answer li").all(), others, strict=True):
        expect(item).to_contain_text(other["translation_text"])
    weights = best["details"]["attention"]
    cells = page.locator(".heat td[data-row]")
    expect(cells).to_have_count(sum(map(len, weights)))
    assert value_of(cells.first) == pytest.approx(weights[0][0], abs=1e-3)


def test_words_are_labeled_as_they_are_typed(tab: Tab) -> None:
    page = tab.open("live")
    field = page.get_by_label("Text")
    expect(page.locator(".answer mark")).to_have_count(6)
    field.fill("")
    field.press_sequentially("They can fish . ", delay=20)
    expect(page.locator(".answer mark")).to_have_count(4)
    entities = ask(tab.address, "v1/tag", {"model": "pos-en-live", "inputs": [["They", "can", "fish", "."]]})
    assert marks(page) == [[each["word"], each["entity"]] for each in entities[0]]


def test_gates_are_those_of_the_route(tab: Tab) -> None:
    page = tab.open("inside")
    name, text = example(page)
    layer = ask(tab.address, "v1/inspect", {"model": name, "inputs": text})["layers"][0]
    cells = page.locator(".heat td[data-row]")
    expect(cells).to_have_count(len(layer["units"]) * len(layer["parts"]["forget"][0]))
    assert value_of(cells.first) == pytest.approx(layer["parts"]["forget"][0][0], abs=1e-3)
    page.get_by_label("Part").select_option("cell")
    expect(page.locator(".heat")).to_have_attribute("aria-label", re.compile("^cell"))
    cells.nth(3).hover()
    expect(page.locator(".status")).to_contain_text("Unit")
    expect(page.get_by_text("How far back does it remember?")).to_be_visible()


def test_the_load_is_shown(tab: Tab) -> None:
    tab.page.clock.install(time=0)
    page = tab.open("load")
    rate = page.locator(".tiles dd").first
    expect(rate).to_be_visible()
    page.clock.pause_at(60_000)
    for _ in range(20):
        ask(tab.address, "v1/classify", {"inputs": "a lovely film"})
    page.clock.fast_forward(2000)
    expect(rate).to_have_text(re.compile(r"^([2-9]|\d\d)"))  # of the 20 requests in 2 s
    expect(page.locator(".tiles dd").nth(1)).to_contain_text("ms")


@pytest.mark.parametrize(
    ("status", "problem", "shown"),
    [
        (413, {"title": "Too large", "detail": "the input has 5,000 words; the limit is 4,096"}, "the limit is 4,096"),
        (429, {"title": "Overloaded", "detail": "the queue is full; retry later"}, "Try again in 3 s."),
        (500, {"title": "Internal error", "detail": "a bug", "request_id": "abc-1"}, "abc-1"),
        (503, {"title": "Unavailable", "detail": "the service is shutting down"}, "shutting down"),
        (0, {}, "does not answer"),
    ],
)
def test_errors_are_shown_in_words(
    browser: Any, address: str, status: int, problem: dict[str, Any], shown: str
) -> None:
    tab = Tab(browser, address)

    def refuse(route: Any) -> None:
        if not status:
            route.abort()
            return
        headers = {"content-type": "application/problem+json", "retry-after": "3"}
        route.fulfill(status=status, headers=headers, body=json.dumps({**problem, "status": status}))

    tab.page.route("**/v1/classify", refuse)
    tab.page.route("**/v1/generate_stream", refuse)
    for view in ("classify", "generate"):
        page = tab.open(view)
        expect(page.get_by_role("alert")).to_contain_text(shown)
    tab.errors.clear()  # Chromium logs the status itself
    tab.close()


@pytest.fixture(scope="module")
def tiny(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with bundles of every kind, which needs a key."""
    root = tmp_path_factory.mktemp("tiny")
    bundles.of_format_3(bundles.of_every_kind(root))
    for make in (bundles.tagger, bundles.classifier, bundles.generator, bundles.forecaster, *CAPTIONERS):
        make(root)
    bundles.live_tagger(root, name="tiny-live-spans", labels=bundles.IOB2)
    pairs = [LanguagePair(source="en", target="de"), LanguagePair(source="en", target="fr")]
    bundles.translator(root, name="tiny-pairs", pairs=pairs)
    with start_seqserve(
        tmp_path_factory.mktemp("service"), "service", {"bundles": str(root), "api_keys": KEY}
    ) as process:
        yield process.address.url


@pytest.fixture
def tiny_tab(browser: Any, tiny: str) -> Iterator[Tab]:
    tab = Tab(browser, tiny, key=KEY)
    yield tab
    tab.close()


@pytest.mark.parametrize("view", ["tag", "classify", "translate", "caption", "generate", "forecast", "live", "inside"])
def test_every_kind_of_bundle_is_answered_for_its_examples(tiny_tab: Tab, view: str) -> None:
    page = tiny_tab.open(view)
    names = page.locator("select[name=model] option").all_inner_texts()
    for name in names:
        page.locator("select[name=model]").select_option(name)
        expect(page.locator("[aria-busy]")).to_have_count(0)
        expect(page.locator(".view .timing").filter(has_text=re.compile(r"\d ms")).first).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
    assert names


def test_a_picture_of_the_reader_is_described_and_shown_for_each_piece(tiny_tab: Tab, tmp_path: Path) -> None:
    page = tiny_tab.open("caption")
    page.locator("select[name=model]").select_option("tiny-picture")
    expect(page.locator("[name=inputs]")).to_be_hidden()
    file = tmp_path / "picture.png"
    file.write_bytes(picture_file(7, side=16))
    page.get_by_label("Your picture").set_input_files(file)
    search = {"num_beams": 5, "num_return_sequences": 3, "details": True}
    body = {
        "model": "tiny-picture",
        "inputs": encoded(file.read_bytes()),
        "parameters": {"generate_parameters": search},
    }
    best, *_ = ask(tiny_tab.address, "v1/caption", body)
    expect(page.locator(".result")).to_have_text(best["generated_text"])
    pieces = page.locator(".attended li span")
    expect(pieces).to_have_text([token["text"].strip() or "·" for token in best["details"]["tokens"]])


def test_a_file_that_is_no_picture_is_refused_in_words(tiny_tab: Tab, tmp_path: Path) -> None:
    page = tiny_tab.open("caption")
    page.locator("select[name=model]").select_option("tiny-picture")
    file = tmp_path / "notes.txt"
    file.write_text("a text")
    page.get_by_label("Your picture").set_input_files(file)
    expect(page.get_by_role("alert")).to_contain_text("not a picture")


def test_labels_of_spans_have_their_colors_in_a_stream(tiny_tab: Tab) -> None:
    page = tiny_tab.open("live")
    page.locator("select[name=model]").select_option("tiny-live-spans")
    field = page.get_by_label("Text")
    field.fill("the cat sat on a mat Paris film lovely . ")
    expect(page.locator(".answer mark")).to_have_count(10)
    colors = {
        each.locator(".label").inner_text().removeprefix("B-").removeprefix("I-"): each.get_attribute("class")
        for each in page.locator(".answer mark:not(.outside)").all()
    }
    assert colors.items() <= {("LOC", "color-0"), ("PER", "color-2")}
    assert colors


def test_a_changed_word_is_labeled_again(tiny_tab: Tab) -> None:
    page = tiny_tab.open("live")
    field = page.get_by_label("Text")
    for text in ("the cat sat ", "the dog sat "):
        field.fill(text)
        expect(page.locator(".answer mark").nth(1)).to_contain_text(text.split()[1])
        expect(page.locator(".answer mark")).to_have_count(3)


def test_the_pair_of_languages_is_chosen(tiny_tab: Tab) -> None:
    page = tiny_tab.open("translate")
    page.get_by_label("Languages").select_option("en to fr")
    with page.expect_request("**/v1/translate") as sent:
        page.get_by_role("button", name="Run").click()
    assert sent.value.post_data_json["parameters"]["tgt_lang"] == "fr"
    expect(page.get_by_role("alert")).to_have_count(0)


def test_large_numbers_have_a_chart(tiny_tab: Tab) -> None:
    page = tiny_tab.open("forecast")
    page.locator("[name=inputs]").fill(json.dumps([1e17] * 5))
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".answer svg")).to_have_attribute("aria-label", re.compile("after 5 known values"))


def test_an_answer_that_cannot_be_shown_is_an_error_in_words(tiny_tab: Tab) -> None:
    tiny_tab.page.route("**/v1/classify", lambda route: route.fulfill(json={"from": "another service"}))
    page = tiny_tab.open("classify")
    expect(page.get_by_role("alert")).to_contain_text("cannot show")
    expect(page.get_by_role("button", name="Run")).not_to_have_attribute("aria-busy", "true")
    tiny_tab.errors.clear()  # the page logs it


def test_a_stream_that_ends_early_is_an_error_in_words(tiny_tab: Tab) -> None:
    event = {"index": 0, "token": {"id": 1, "text": "a", "logprob": -0.1}, "generated_text": None, "details": None}
    body = f"data: {json.dumps(event)}\n\n"
    tiny_tab.page.route(
        "**/v1/generate_stream", lambda route: route.fulfill(content_type="text/event-stream", body=body)
    )
    page = tiny_tab.open("generate")
    expect(page.get_by_role("alert")).to_contain_text("connection was lost")
    expect(page.locator(".generated span")).to_have_text("a")


@pytest.mark.parametrize("text", ["1, 2, three", '[1, 2, "x"]', "7", "[[1, 2]]", ""])
def test_input_that_is_no_list_is_refused_in_words(tab: Tab, text: str) -> None:
    page = tab.open("forecast")
    page.locator("[name=inputs]").fill(text)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert")).to_contain_text("a list of numbers")
    assert page.locator("[name=inputs]").input_value() == text


def test_the_page_asks_for_an_api_key(browser: Any, tiny: str) -> None:
    tab = Tab(browser, tiny)
    tab.page.goto(tab.address)
    tab.enter("ключ")  # no header can have it
    expect(tab.page.get_by_label("API key")).to_have_value("ключ")
    tab.enter("wrong-key")
    expect(tab.page.get_by_role("alert")).to_contain_text("does not accept")
    tab.enter(KEY)
    code = tab.page.locator("details.code")
    code.locator("summary").click()
    expect(code.locator("code")).to_contain_text("$API_KEY")
    for view in ("Tag", "Live"):
        tab.page.get_by_role("link", name=view).click()
        expect(tab.page.locator(".answer mark").first).to_be_visible()
    assert tab.page.evaluate("localStorage.length + sessionStorage.length") == 0
    tab.errors.clear()  # the two refusals, which Chromium logs
    tab.close()


def test_commands_of_the_reference_can_be_copied(tab: Tab) -> None:
    tab.page.goto(f"{tab.address}/docs")
    tab.page.locator(".route").first.wait_for()
    commands = tab.page.locator(".route pre").all_text_contents()
    paths = [urlsplit(command.split()[1]).path for command in commands]
    assert {"/models/en-de/translate", "/v2/models/pos-en/versions/1/infer"} <= set(paths)
    assert [path for path in paths if "{" in path] == []
    for path, command in zip(paths, commands, strict=True):
        if path.startswith("/models/"):
            assert "model" not in json.loads(command.partition(" -d ")[2].strip("'"))
    summaries = tab.page.locator(".route summary").all_inner_texts()
    assert [each for each in summaries if "`" in each] == []


def test_code_stays_open_and_is_the_request_that_is_sent(tab: Tab) -> None:
    page = tab.open("translate")
    page.locator("details.code summary").click()
    page.get_by_label("Python").check()
    page.locator("[name=beams]").fill("3")
    with page.expect_request("**/v1/translate") as sent:
        page.get_by_role("button", name="Run").click()
    search = sent.value.post_data_json["parameters"]["generate_parameters"]
    code = page.locator("details.code code")
    expect(code).to_contain_text('"num_beams": 3')
    (call,) = re.findall(r"generate_parameters=(\{.*?\})", code.inner_text())
    assert ast.literal_eval(call) == search


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (apt install nginx-light)")
def test_every_view_works_behind_a_path_prefix(browser: Any, address: str, tmp_path: Path) -> None:
    nginx = Nginx(tmp_path, address)
    tab = Tab(browser, nginx.site.rstrip("/"))
    for view in VIEWS:
        page = tab.open(view)
        answer = page.locator(".answer mark, .answer .bars, .answer span, .answer svg, .tiles dd")
        answer.first.wait_for(state="attached")
    tab.close()
    nginx.close()


def test_everything_can_be_done_with_the_keyboard(tab: Tab) -> None:
    page = tab.open("tag")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    assert page.evaluate("location.hash") == "#tag"
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.textContent") != "Classify":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Classify a whole input")
    while page.evaluate("document.activeElement.name") != "inputs":
        page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("This is not good.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".result")).to_have_text("negative")


def test_each_cell_of_a_heat_map_can_be_read_with_the_keyboard(tab: Tab) -> None:
    page = tab.open("translate")
    name, text = example(page)
    parameters = {"generate_parameters": {"num_beams": 5, "details": True}}
    (best,) = ask(tab.address, "v1/translate", {"model": name, "inputs": text, "parameters": parameters})
    weights = best["details"]["attention"]
    page.locator(".heat td[data-row]").last.wait_for()
    page.locator(".answer summary").focus()
    page.keyboard.press("Tab")
    last = (len(weights) - 1, len(weights[0]) - 1)
    moves = {"ArrowDown": (1, 0), "ArrowRight": (1, 1), "ArrowUp": (0, 1), "ArrowLeft": (0, 0), "End": (0, last[1])}
    for key, (row, column) in {"Shift": (0, 0), **moves, "Home": (0, 0)}.items():
        page.keyboard.press(key)
        cell = page.locator(".heat td:focus")
        assert value_of(cell) == pytest.approx(weights[row][column], abs=1e-3)
        expect(page.locator(".status")).to_have_text(cell.get_attribute("aria-label"))
    page.keyboard.press("ArrowUp")  # the focus stays on the map
    page.keyboard.press("Tab")  # the map is one stop
    expect(page.locator(".heat td:focus")).to_have_count(0)
    expect(page.locator(".card summary")).to_be_focused()


def test_there_are_no_violations_of_wcag_aa(browser: Any, address: str) -> None:
    tab = Tab(browser, address, viewport={"width": 360, "height": 740})
    every_rule = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
    for view in (*VIEWS, "docs"):
        if view == "docs":
            tab.page.goto(f"{address}/docs")
            tab.page.locator(".route summary").first.click()
        else:
            tab.open(view)
            tab.page.locator(".answer *, .tiles *").first.wait_for()
        tab.page.evaluate("document.querySelectorAll('.view details').forEach((each) => { each.open = true; })")
        for scheme, rules in (("light", every_rule), ("dark", {**every_rule, "runOnly": ["color-contrast"]})):
            tab.page.emulate_media(color_scheme=scheme)
            violations = axe.Axe().run(tab.page, options=rules).response["violations"]
            assert [(view, scheme, each["id"], each["nodes"][0]["html"]) for each in violations] == []
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360, view
    tab.close()


def test_the_first_view_is_small_and_fast(browser: Any, address: str) -> None:
    paints: list[float] = []
    for _ in range(15 if FULL else 1):
        tab = Tab(browser, address)
        sizes: list[int] = []
        tab.page.on("requestfinished", lambda each, sizes=sizes: sizes.append(each.sizes()["responseBodySize"]))
        tab.open("tag").wait_for_load_state("networkidle")
        paints.append(tab.first_paint_ms())
        assert 0 < sum(sizes) < 300_000
        tab.close()
    print(f"\nfirst paint: {sum(sizes)} bytes, {median(paints):.0f} ms")
    assert not FULL or median(paints) < 300


@contextlib.contextmanager
def client_of(address: str, tab: Tab, view: str) -> Iterator[Callable[[], object]]:
    """Send what the view sends."""
    if view == "live":
        with connect(f"ws{address.removeprefix('http')}/v1/stream", compression=None) as stream:
            stream.send(json.dumps({"model": tab.page.locator("select[name=model]").input_value()}))
            stream.recv()
            yield lambda: (stream.send('{"inputs": ["word"]}'), stream.recv())
    else:
        with tab.page.expect_request("**/v1/*") as sent:
            tab.answered_ms()
        request = sent.value
        with httpx.Client(timeout=30) as client:
            yield lambda: client.post(request.url, json=request.post_data_json).raise_for_status().read()


def test_each_view_answers_as_fast_as_its_route(tab: Tab) -> None:
    """Alternate between a click and a client. The load has no answer: it is refreshed every two seconds."""
    slower: dict[str, float] = {}
    print("\n| view | route | page | difference |\n| --- | --- | --- | --- |")
    for view in VIEWS[:-1] if FULL else ("tag", "generate", "live"):
        page = tab.open(view)
        page.locator(".answer").locator("mark" if view == "live" else ".timing").last.wait_for()
        route_ms: list[float] = []
        page_ms: list[float] = []
        with client_of(tab.address, tab, view) as ask_route:
            for _ in range(15 if FULL else 1):
                started = time.perf_counter()
                ask_route()
                route_ms.append(1000 * (time.perf_counter() - started))
                page_ms.append(tab.answered_ms())
        slower_ms = median(page_ms) - median(route_ms)
        print(f"| {view} | {median(route_ms):.1f} ms | {median(page_ms):.1f} ms | {slower_ms:.1f} ms |")
        slower[view] = slower_ms
    assert not FULL or max(slower.values()) < 30
