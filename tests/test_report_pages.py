"""The pages of a run and of a score in a real browser that MELLOW_CHROMIUM names."""

import json
import os

import made_predictions
import pytest

from mellow_jax import evaluate
from mellow_jax.training import report

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("MELLOW_CHROMIUM", "")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}


@pytest.fixture(scope="module")
def browser():
  if not CHROMIUM:
    pytest.skip("MELLOW_CHROMIUM is not set: give the path of a Chromium")
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    args = ["--no-sandbox", "--headless", "--no-zygote"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  """A run's page and a score page, each with all its parts."""
  folder = tmp_path_factory.mktemp("pages")
  lines = {
    "metrics": [{"step": n, "loss": 2 / n, "grad_norm": 1.0} for n in range(1, 100)]
    + [{"step": 99, "val_loss": 0.5, "val_accuracy": 0.75, "val_answers": 8}],
    "times": [{"step": 99, "examples_per_s": 7.5, "seconds": {"train": 30.0, "compile": 10.0}}],
    "answers": [
      {"step": n, "question": "which? a) dog b) rain", "expected": "a) dog", "answer": "a) dog"}
      | {"clip1": "a/long/folder/and/a/long/name/of/a/clip.wav"}
      for n in (50, 99)
    ],
  }
  for name, rows in lines.items():
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  asked = made_predictions.items(200)
  clips = made_predictions.write(folder / "clips.jsonl", asked, 0.8, seed=0)
  noise = made_predictions.write(folder / "noise.jsonl", asked, 0.1, seed=1, heard="noise")
  argv = ["score", f"--predictions={clips}", f"--probe={noise}", f"--output={folder / 'score'}"]
  assert evaluate.main(["evaluate", *map(str, argv), "--java=/nowhere/java"]) == 0
  return report.write(folder), folder / "score/report.html"


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("number", [0, 1], ids=["run", "score"])
def test_a_page_needs_no_sideways_scrolling_and_its_pictures_can_be_read(
  browser, pages, number, screen
):
  page = browser.new_page(**screen)
  page.goto(pages[number].as_uri())
  width = screen["viewport"]["width"]
  assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
  shown = "[...document.querySelectorAll('svg')].map(s => s.clientWidth / s.viewBox.baseVal.width)"
  scales = page.evaluate(shown)  # pixels of a point; the smallest text has 9 points
  assert len(scales) >= 5 and min(scales) * 9 >= 7
  page.close()


def test_on_a_phone_the_answers_over_time_are_in_view(browser, pages):
  page = browser.new_page(**PHONE)
  page.goto(pages[0].as_uri())
  for cell in page.locator(".answers td").all():
    box = cell.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
  page.close()
