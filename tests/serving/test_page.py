"""The page in a real browser: files, microphone, answers, keyboard, a phone's width.

MELLOW_CHROMIUM names the browser; MELLOW_AXE, where given, axe-core's axe.min.js. docs/serving.md
says where to get them. MELLOW_PAGE_MODEL, where given, is the model folder to ask, such as the
demo's; by default a tiny one with random weights answers.
"""

import os
import re
import time
from pathlib import Path

import pytest
import tiny
from test_serving import Running, serving, wav

from mellow_jax import checkpoint
from mellow_jax.inference.api import Mellow
from mellow_jax.serving.limits import Limits

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("MELLOW_CHROMIUM", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  if given := os.environ.get("MELLOW_PAGE_MODEL"):
    with serving(Mellow.load(given), limits=Limits()) as found:
      yield found
    return
  model = tiny.config(
    audio=tiny.run().model.audio, text_tokens=24, answer_tokens=22, decoder=tiny.run().model.decoder
  )
  folder = tmp_path_factory.mktemp("page") / "model"
  checkpoint.save_model(folder, tiny.params(model), model, "clean", tiny.tokenizer())
  with serving(Mellow.load(folder), limits=Limits()) as found:
    yield found


@pytest.fixture
def page(server: Running, tmp_path):
  if not CHROMIUM:
    pytest.skip("MELLOW_CHROMIUM is not set: give the path of a Chromium")
  from playwright.sync_api import sync_playwright

  (tmp_path / "voice.wav").write_bytes(wav(9, 3))
  args = ["--no-sandbox", "--headless", "--use-fake-ui-for-media-stream"]
  args += ["--use-fake-device-for-media-stream", "--no-zygote"]
  args += [f"--use-file-for-fake-audio-capture={tmp_path / 'voice.wav'}"]
  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.outside, page.faults = [], []
    page.on("request", lambda request: page.outside.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("#examples button")
    yield page
    own = re.compile(rf"(http://127\.0\.0\.1:{server.port}/|data:|blob:)")
    assert [url for url in page.outside if not own.match(url)] == [] and page.faults == []
    browser.close()


def answered(page) -> str:
  page.wait_for_function(
    """() => {
      const text = (id) => document.getElementById(id).textContent;
      return !document.getElementById("send").disabled && (text("answer") || text("notes"));
    }"""
  )
  return page.inner_text("#answer") or page.inner_text("#notes")


def drop(page, slot: int, name: str, data: bytes) -> None:
  """Drops a file on a slot."""
  transfer = page.evaluate_handle(
    """([name, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "audio/wav" }));
      return transfer;
    }""",
    [name, list(data)],
  )
  page.dispatch_event(f".drop >> nth={slot}", "drop", {"dataTransfer": transfer})
  page.wait_for_function(
    "([slot, name]) => document.querySelectorAll('.name')[slot].textContent.startsWith(name)",
    arg=[slot, name],
  )


def test_an_example_is_asked_at_a_click_and_streams(page):
  page.click("#examples button >> nth=0")
  assert answered(page)
  assert page.input_value("#question") == "caption the audio"
  assert "of 5.1 s" in page.inner_text(".used >> nth=0")


def test_the_first_word_stands_within_a_second(page):
  """From the click on an example nobody has asked about, its clip's fetching included."""
  found = page.evaluate(
    """() => new Promise((done) => {
      const answer = document.getElementById("answer");
      const begin = performance.now();
      const look = () => answer.textContent && done(performance.now() - begin);
      new MutationObserver(look).observe(
        answer, { childList: true, characterData: true, subtree: true });
      document.querySelectorAll("#examples button")[1].click();
    })"""
  )
  print(f"first word after {found:.0f} ms")
  assert 0 < found < 1000


def test_two_sounds_are_dropped_and_recorded_compared_and_exported(page, tmp_path):
  drop(page, 0, "a.wav", wav(1, 2))
  page.click(".slot >> nth=1 >> .record")
  time.sleep(1)
  page.click(".slot >> nth=1 >> .record")
  page.wait_for_function("document.querySelectorAll('.name')[1].textContent.length > 0")
  assert re.match(r"recording\.wav, [0-3]\.\d s", page.inner_text(".name >> nth=1"))
  page.fill("#question", "explain the difference in few words")
  page.fill("#options", "yes\nno")
  page.click("#send")
  answered(page)
  page.wait_for_selector(".bar >> nth=1")
  shares = [float(page.inner_text(f".bar b >> nth={i}").split()[0]) for i in range(2)]
  assert sum(shares) == pytest.approx(100, abs=0.2)
  with page.expect_download() as download:
    page.click("#export")
  exported = Path(download.value.path()).read_text()
  assert '"a.wav"' in exported and '"probabilities"' in exported
  for number in range(2):
    data = page.evaluate(f"document.querySelectorAll('canvas.wave')[{number}].toDataURL().length")
    assert data > 500  # something is drawn


def test_the_keyboard_alone_asks(page):
  drop(page, 0, "a.wav", wav(1, 2))
  page.focus("#question")
  page.keyboard.press("Control+A")
  page.keyboard.type("is there a bell?")
  page.keyboard.press("Enter")
  assert answered(page)
  names = []
  page.evaluate("document.activeElement.blur()")
  for _ in range(40):
    page.keyboard.press("Tab")
    names.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
  assert {"file", "record", "clear", "question", "options", "send"} <= set(names)


def test_one_question_is_asked_at_a_time(page):
  page.evaluate("document.querySelector('#examples button').click()")
  drop(page, 1, "b.wav", wav(2, 2))
  asked = []
  page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[1]))
  answered(page)
  page.focus("#question")
  for _ in range(3):
    page.keyboard.press("Enter")
  page.evaluate(
    "for (const button of document.querySelectorAll('#examples button')) button.click()"
  )
  answered(page)
  assert asked.count("completions") == 1


def test_an_example_is_asked_alone(page):
  drop(page, 1, "b.wav", wav(2, 2))
  page.click("#examples button >> nth=0")
  answered(page)
  assert page.inner_text(".name >> nth=1") == "" and page.is_disabled(".clear >> nth=1")


def test_options_that_are_numbers_keep_their_order_and_one_is_too_few(page):
  drop(page, 0, "a.wav", wav(1, 2))
  page.fill("#options", "10\n2\n5")
  with page.expect_request("**/v1/systemone") as sent:
    page.click("#send")
  assert '"criteria":{"10":null,"2":null,"5":null}' in sent.value.post_data
  page.wait_for_selector(".bar >> nth=2")
  answered(page)
  assert [page.inner_text(f".bar span >> nth={i}") for i in range(3)] == ["10", "2", "5"]
  page.fill("#options", "10")
  page.click("#send")
  answered(page)
  assert "give two options or more" in page.inner_text("#notes")


def test_a_file_dropped_beside_a_slot_leaves_the_page(page):
  stays = """() => ["dragover", "drop"].map((name) => {
    const event = new DragEvent(name, { bubbles: true, cancelable: true });
    document.querySelector("header").dispatchEvent(event);
    return event.defaultPrevented;
  })"""
  assert page.evaluate(stays) == [True, True]


def test_what_cannot_be_copied_is_said(page):
  page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
  page.click("#examples button >> nth=0")
  answered(page)
  page.click("#copy")
  page.wait_for_function("document.getElementById('notes').textContent.includes('copy nothing')")


def test_a_recording_begins_once_though_it_is_asked_for_twice(page):
  page.evaluate(
    """() => {
      window.begun = 0;
      const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = (how) => { window.begun++; return ask(how); };
      const record = document.querySelector(".record");
      record.click(); record.click();
    }"""
  )
  page.wait_for_selector(".record[aria-pressed=true]")
  assert page.evaluate("window.begun") == 1
  page.click(".record >> nth=0")
  page.wait_for_function("document.querySelector('.name').textContent.startsWith('recording.wav')")


def test_stop_ends_an_answer(page):
  drop(page, 0, "a.wav", wav(1, 2))
  page.evaluate("document.getElementById('send').click(); document.getElementById('stop').click()")
  page.wait_for_function("document.getElementById('notes').textContent === 'stopped'")


def test_a_phone_needs_no_sideways_scrolling_and_axe_finds_nothing_serious(page):
  page.set_viewport_size({"width": 390, "height": 800})
  page.click("#examples button >> nth=1")
  answered(page)
  assert page.evaluate("document.documentElement.scrollWidth") == 390
  if "MELLOW_AXE" not in os.environ:
    pytest.skip("MELLOW_AXE is not set: give the path of axe.min.js")
  for scheme in ("light", "dark"):
    page.emulate_media(color_scheme=scheme)
    page.evaluate(Path(os.environ["MELLOW_AXE"]).read_text())
    found = page.evaluate("axe.run().then((result) => result.violations)")
    serious = [v["id"] for v in found if v["impact"] in ("serious", "critical")]
    assert serious == [], serious


def test_what_is_no_sound_is_said_and_the_sound_before_goes(page):
  drop(page, 0, "before.wav", wav(1, 2))
  handle = page.evaluate_handle(
    """() => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(10)], "x.wav"));
      return transfer;
    }"""
  )
  page.dispatch_event(".drop >> nth=0", "drop", {"dataTransfer": handle})
  page.wait_for_function(
    "document.querySelectorAll('.name')[0].textContent.includes('cannot be read')"
  )
  audio = page.eval_on_selector("audio", "(audio) => [audio.hidden, audio.hasAttribute('src')]")
  assert audio == [True, False]
  assert page.is_disabled(".clear >> nth=0") and page.inner_text(".used >> nth=0") == ""
