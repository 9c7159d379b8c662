"""`prolu-eval publish`: model cards, and files in SAEBench's schema."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from prolu_eval.estimates import Estimate
from prolu_eval.publishing import card
from prolu_eval.results import Result, read_result, write_result
from tests.helpers.cli import run
from tests.helpers.made_results import drawn, setting, with_features

# The keys that SAEBench 0.6's core schema requires, by group.
SCHEMA = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae",
    },
    "reconstruction_quality": {"explained_variance", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
    "misc_metrics": {
        "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent", "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim", "frac_alive",
    },
}  # fmt: skip
TOP = {
    "eval_type_id", "eval_config", "eval_id", "datetime_epoch_millis", "eval_result_metrics",
    "eval_result_details", "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id",
    "sae_lens_version", "sae_cfg_dict", "eval_result_unstructured",
}  # fmt: skip
DETAILS = {
    "index", "feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm",
    "encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim",
}  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i, label in enumerate(["relu", "relu", "prolu"]):
        made = with_features(drawn(f"{label}{i}", label, rng, 10 + 5 * i, 0.1 / (i + 1)), rng)
        at = setting(model="google/gemma-2-2b")
        write_result(made.model_copy(update={"setting": at}), tmp_path / "runs" / f"{label}{i}")
    return tmp_path / "runs"


def published(path: Path) -> tuple[Result, dict[str, Any]]:
    stem = path.name.removesuffix("_eval_results.json")
    (stored,) = (path.parent.parent / stem).glob("*.json")
    return read_result(stored), json.loads(path.read_text())


def test_saebench_files_have_its_schema(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(capfd, "publish", runs, "--to", "saebench", "--json")
    assert ran.code == 0, ran.err
    written = [Path(path) for path in ran.json()["written"]]
    assert [path.name for path in written] == [
        f"{name}_eval_results.json" for name in ("prolu2", "relu0", "relu1")
    ]
    for path in written:
        result, document = published(path)
        assert document.keys() == TOP
        groups = document["eval_result_metrics"]
        assert {group: set(values) for group, values in groups.items()} == SCHEMA
        assert all(isinstance(v, float) for values in groups.values() for v in values.values())
        quality = groups["reconstruction_quality"]
        assert quality["mse"] == result.metrics["mse"].value
        assert groups["sparsity"]["l0"] == result.metrics["l0"].value
        assert groups["model_performance_preservation"]["ce_loss_with_ablation"] == (
            result.metrics["ce_zero"].value
        )
        rate = result.per_feature()["firing_rate"]
        assert groups["misc_metrics"]["frac_alive"] == pytest.approx((rate > 0).mean())
        assert len(document["eval_result_details"]) == len(rate)
        assert all(detail.keys() == DETAILS for detail in document["eval_result_details"])


def test_saebench_files_say_what_is_not_theirs(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(capfd, "publish", runs, "--to", "saebench")
    result, document = published(runs / "saebench" / "relu0_eval_results.json")
    told = document["eval_result_unstructured"]
    groups = document["eval_result_metrics"]
    for group in groups.values():
        for name, value in group.items():
            assert (value == -1.0) == (name in told["not_measured"]), name
    assert "legacy" in told["meaning"]["explained_variance"]
    assert told["legacy"] == {"explained_variance_legacy": pytest.approx(0.7)}
    assert "SAEBench's paper" in told["meaning"]["explained_variance_legacy"]
    ours = told["prolu_eval"]["explained_variance"]
    assert ours["value"] == groups["reconstruction_quality"]["explained_variance"]
    assert ours["standard_error"] == result.metrics["explained_variance"].standard_error


def test_the_legacy_explained_variance_stands_beside_ours(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for legacy, told_as in ((0.5, 0.5), (None, -1.0)):
        (path,) = (runs / "relu0").glob("*.json")
        result = read_result(path)
        metrics = {**result.metrics, "explained_variance_legacy": Estimate(value=legacy)}
        write_result(result.model_copy(update={"metrics": metrics}), runs / "relu0")
        run(capfd, "publish", runs, "--to", "saebench")
        _, document = published(runs / "saebench" / "relu0_eval_results.json")
        told = document["eval_result_unstructured"]["legacy"]
        assert told == {"explained_variance_legacy": told_as}
        quality = document["eval_result_metrics"]["reconstruction_quality"]
        assert quality["explained_variance"] == result.metrics["explained_variance"].value


def test_a_card_has_metadata_and_the_table(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(capfd, "publish", runs, "--to", "card", "--no-figure")
    assert (ran.code, ran.out) == (0, f"Wrote {runs / 'README.md'}\n")
    text = (runs / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["base_model"] == ["google/gemma-2-2b"]
    assert "sparse-autoencoder" in metadata["tags"]
    assert "relu0" in body
    assert "frontier.svg" not in body


def test_a_card_that_is_there_keeps_what_is_not_ours(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = runs / "README.md"
    path.write_text("---\nlicense: mit\n---\n\n# Mine\n\nAbout them.\n")
    run(capfd, "publish", runs, "--to", "card", "--no-figure")
    first = path.read_text()
    assert first.startswith("---\nlicense: mit\n---\n\n# Mine\n\nAbout them.\n")
    path.write_text(first + "\nAfterwards.\n")
    run(capfd, "publish", runs, "--to", "card", "--no-figure")
    again = path.read_text()
    assert again == first + "\nAfterwards.\n"
    assert again.count("prolu-eval: results") == 1


def test_a_card_shows_the_first_groups_frontier(
    runs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_figures(page: Path, folder: Path, kind: str) -> list[Path]:
        assert "ce_degradation" in page.read_text()
        (folder / f"first.{kind}").write_text("<svg/>")
        return [folder / f"first.{kind}"]

    monkeypatch.setattr(card, "write_figures", write_figures)
    monkeypatch.setattr(card, "find_browser", lambda: "chromium")
    ran = run(capfd, "publish", runs, "--to", "card", "--json")
    assert ran.json()["written"] == [str(runs / "README.md"), str(runs / "frontier.svg")]
    assert (runs / "frontier.svg").read_text() == "<svg/>"
    assert "![The frontier](frontier.svg)" in (runs / "README.md").read_text()


def views(page: Path) -> dict[str, Any]:
    """The figures of a page's first group, by id."""
    text = page.read_text()
    start = text.index(">", text.index('id="data"')) + 1
    data = json.loads(text[start : text.index("</script>", start)])
    return {view["id"]: view for view in data["groups"][0]["views"]}


def test_a_report_shows_what_saebench_measured_beside_the_runs(
    runs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(capfd, "publish", runs, "--to", "saebench")
    theirs = runs / "saebench" / "relu0_eval_results.json"
    _, document = published(theirs)
    document |= {"sae_lens_release_id": "gemma", "sae_lens_id": "<b>x</b>"}
    theirs.write_text(json.dumps(document))
    page = runs / "page.html"
    ran = run(capfd, "report", runs, "-o", page, "--reference", theirs)
    assert ran.code == 0, ran.err
    shown = views(page)
    view = shown["l0-ce_degradation"]
    trace = view["figure"]["data"][-1]
    assert trace["name"] == "measured by SAEBench on other tokens"
    assert trace["text"] == ["gemma/&lt;b&gt;x&lt;/b&gt;"]
    metrics = document["eval_result_metrics"]
    losses = metrics["model_performance_preservation"]
    assert (trace["x"], trace["y"]) == (
        [metrics["sparsity"]["l0"]],
        [losses["ce_loss_with_sae"] - losses["ce_loss_without_sae"]],
    )
    assert "Open diamonds were measured by SAEBench on other tokens." in view["reading"]
    assert "SAEBench" not in shown["l0-explained_variance"]["reading"], "it means another thing"
    document["sae_cfg_dict"]["hook_name"] = "blocks.7.hook_resid_post"
    theirs.write_text(json.dumps(document))
    run(capfd, "report", runs, "-o", page, "--reference", theirs)
    assert "SAEBench" not in views(page)["l0-ce_degradation"]["reading"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"eval_type_id": "scr"}', None])
def test_references_that_are_none(
    runs: Path, content: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    file = runs / "their_eval_results.json"
    if content is not None:
        file.write_text(content)
    ran = run(capfd, "report", runs, "--reference", file)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "SAEBench" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs", "--to", "wandb"], "choose card or saebench"),
        (["absent", "--to", "card"], "does not exist"),
        (["hub:some/repository", "--to", "card"], "name a folder with -o"),
    ],
)
def test_what_cannot_be_published(
    runs: Path,
    arguments: list[str],
    words: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs.parent)
    ran = run(capfd, "publish", *arguments)
    assert (ran.code, words in ran.err) == (2, True), ran.err
