import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from raremap.config import Experiment, preset, preset_names
from raremap.errors import ConfigError

BASE = """
out: run
scenes: {images: img/*.tif, masks: mask/*.tif}
labels: {classes: {0: other, 1: slide}}
"""


def load(tmp_path, text, *overrides):
    (tmp_path / "e.yaml").write_text(text)
    return Experiment.load(tmp_path / "e.yaml", overrides)


def test_an_experiment_is_read_back_as_it_was_resolved(tmp_path):
    first = load(
        tmp_path, BASE + "train: {steps: 5}\n", "train.seed=3", "optimizer.lr=1e-4", "labels.ignore=[255]"
    )
    assert (first.train.steps, first.train.seed, first.optimizer.lr) == (5, 3, 1e-4)
    assert load(tmp_path, first.to_yaml()) == first


def test_a_built_in_scheme_by_name(tmp_path):
    text = BASE.replace("{classes: {0: other, 1: slide}}", "catalonia")
    assert load(tmp_path, text).labels.num_classes == 12


@pytest.mark.parametrize(
    ("extra", "overrides", "match"),
    [
        ("trian: {}\n", (), r"e\.yaml: unknown key 'trian'; did you mean 'train'"),
        ("train: {stepz: 3}\n", (), r"unknown key 'train\.stepz'; did you mean 'steps'"),
        ("tiles: {size: big}\n", (), r"tiles\.size: input should be a valid integer.*found 'big'"),
        ("train: {steps: 0}\n", (), r"train\.steps: input should be greater than or equal to 1, found 0"),
        ("loss: {kind: focl}\n", (), r"loss: .*'ce', 'ce_dice'"),
        ("decision: {metric: f_beta, of: slid}\n", (), r"decision\.of is 'slid', which is not a class; did you mean 'slide'"),
        ("split: {fold: 7}\n", (), r"split: fold 7 does not exist"),
        ("outer: {classes: both}\n", (), r"outer\.classes 'both' moves the target .* balance uniform follows none"),
        ("", ("loss.tau=1",), r"'loss\.kind' is missing; give it as well: ce, ce_dice, sum, hialf$"),
        ("balance: {aim: 0.5}\n", (), r"'balance\.kind' is missing; .*: uniform, .*mixture"),
        ("outer: {classes: none}\n", (), r"outer has nothing to learn: .* the terms of a loss of one term; leave outer out"),
        ("outer: {classes: none, terms: false}\nloss: {kind: ce_dice}\n", (), r"the terms of the loss \(outer\.terms is false\)"),
        ("outer: {classes: none}\nloss: {kind: hialf}\n", (), r"the terms of a hialf of another weighting than 'outer'"),
        ("loss: {ce: 1, a: {kind: boundary}, b: {kind: boundary, clip: 5}}\n", (), r"boundary terms a, b differ in only or clip"),
        ("", ("steps",), r"override 'steps' is not of the form section\.key=value"),
        ("", ("out.x=1",), r"'out' is 'run', not a section"),
        ("preset: nothing\n", (), "no preset is called 'nothing'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(tmp_path, extra, overrides, match):
    start = "" if "preset" in extra else "preset: null\n"
    with pytest.raises(ConfigError, match=match) as caught:
        load(tmp_path, BASE + start + extra, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", ["{ce: 1, dice: 1}", "{kind: hialf, weighting: outer}", "{kind: ce_dice}"])
def test_an_outer_loop_may_learn_weights_of_terms_alone(tmp_path, loss):
    assert load(tmp_path, BASE + f"outer: {{classes: none}}\nloss: {loss}\n").outer is not None


def test_points_that_no_pseudo_labels_help_are_not_told_to_take_them(tmp_path):
    text = BASE + "points: {kind: per_class}\nloss: {ce: 1, dice: 1, boundary_ce: 1}\n"
    with pytest.raises(ConfigError, match=r"the loss has dice, boundary_ce, .* such as ce and focal$"):
        load(tmp_path, text)
    with pytest.raises(ConfigError, match=r"the loss has dice, which .* pseudo: \{\}$"):
        load(tmp_path, text, "loss={ce: 1, dice: 1}")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [1\n", r"is not valid YAML at line 2"),
        ("- 1\n", r"holds list, expected keys"),
        ("out: run\nlabels: loveda\n", r"'scenes' is missing"),
        (BASE.replace("images: img/*.tif, ", ""), r"scenes: give either images .* or band_files"),
        (BASE.replace("1: slide", "1: other"), r"labels: .*'other' is given twice"),
    ],
)
def test_files_that_are_no_experiment(tmp_path, text, match):
    with pytest.raises(ConfigError, match=match):
        load(tmp_path, text)


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        Experiment.load("nowhere.yaml")


EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_valid(path):
    Experiment.load(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_command_in_an_example_is_one_line_that_a_shell_takes(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert not any(line.endswith("\\") for line in lines)
    for line in (line[1:] for line in lines if line.startswith("#   raremap ")):
        words = shlex.split(line)  # fails where a quote is open
        for flag, variant in pairwise(words):
            if flag == "--variant":
                Experiment.load(path, variant.partition(":")[2].split())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_sets_every_key_of_the_sections_it_names(tmp_path, name):
    keys = preset(name)
    resolved = load(tmp_path, BASE + f"preset: {name}\n").model_dump()
    # A comparison puts it over any experiment; the decision, which it leaves aside there, may be short.
    for section in set(keys) - {"decision"}:
        assert set(keys[section]) == set(resolved[section])


def test_a_preset_is_the_start_and_the_file_goes_before_it(tmp_path):
    first = load(tmp_path, BASE + "preset: baseline\n")
    assert (first.loss.kind, first.decision.kind) == ("ce", "argmax")
    assert load(tmp_path, BASE + "preset: baseline\nloss: {kind: ce_dice}\n").loss.kind == "ce_dice"


def sections(e: Experiment) -> dict[str, dict]:
    return {name: getattr(e, name).model_dump(mode="json") for name in ("balance", "loss", "decision")}


def recipe(name: str) -> dict[str, dict]:
    """The sections of a preset, filled up by nothing but the preset."""
    data = {
        "out": "run",
        "scenes": {"images": "i/*.tif", "masks": "m/*.tif"},
        "labels": "landslide",
        "preset": name,
    }
    return sections(Experiment.from_dict(data))


def test_a_file_that_names_no_preset_starts_from_the_default_recipe(tmp_path):
    assert sections(load(tmp_path, BASE)) == recipe("raremap") != recipe("baseline")
    plain = load(tmp_path, BASE + "preset: null\n")
    assert (plain.loss.kind, plain.balance.kind) == ("ce", "uniform")
    # Nested keys in Python say all themselves, and so does a resolved experiment.
    bare = Experiment.from_dict(
        {"out": "run", "scenes": {"images": "img/*.tif", "masks": "mask/*.tif"}, "labels": "landslide"}
    )
    assert (bare.loss.kind, bare.balance.kind) == ("ce", "uniform")
    assert load(tmp_path, plain.to_yaml()) == plain


def test_points_start_from_the_recipe_of_points(tmp_path):
    points = load(tmp_path, BASE + "points: {kind: uniform, count: 20}\n")
    assert sections(points) == recipe("points")
    assert points.optimizer.kind == "adam"


def test_what_the_file_says_goes_before_the_preset_and_overrides_before_both(tmp_path):
    ours = recipe("raremap")
    softer = load(tmp_path, BASE + "loss: {tau: 0.5}\n", "balance.max_repeats=2")
    assert softer.loss.model_dump() == {**ours["loss"], "tau": 0.5}
    assert softer.balance.model_dump(mode="json") == {**ours["balance"], "max_repeats": 2.0}
    # Another kind, in the file or in an override, leaves nothing of the recipe's section.
    assert load(tmp_path, BASE + "loss: {kind: ce}\n").loss.weights == "none"
    assert load(tmp_path, BASE, "loss.kind=ce").loss.weights == "none"
    assert load(tmp_path, BASE, "balance.kind=uniform").balance.model_dump() == {
        "kind": "uniform",
        "aim": 0.0,
    }
    assert load(tmp_path, BASE, "preset=baseline").decision.kind == "argmax"
