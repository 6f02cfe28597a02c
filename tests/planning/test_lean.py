"""Layouts are looked up in a fork with a lean transformers: the same answer, and nothing of it stays."""

import json
import subprocess
import sys
import textwrap

import pytest
from architectures import MODELS, save_both_layouts

from expo.checkpoint import open_checkpoint
from expo.checkpoint.views.layouts import fits_as_stored
from expo.planning import lean

PAIRS = (("original", "module"), ("module", "original"))
# Every plan is made by forks first: what this process loads after them, no fork has.
COMPARED = """
    import json, sys
    import expo
    from expo.forks import most_bytes
    from expo.planning import layouts

    asked, apart = [], layouts.apart
    def spied(function, known, **options):
        known = list(known)
        found = apart(function, known, **options)
        asked.append((function, {id(each) for each in known}, found, repr(found)))
        return found
    layouts.apart = spied

    for sft, dpo in json.loads(sys.argv[1]):
        expo.plan(expo.extrapolation(sft=sft, dpo=dpo, alpha=0.5))
        assert "transformers" not in sys.modules, dpo
        assert "torch" not in sys.modules, dpo
    assert most_bytes() > 0

    def strangers(found, known):
        # Parts of views that are copies of a checkpoint's own records.
        specs = [spec for table in found.tables.values() for spec in table.values() if spec.view]
        return [part for spec in specs for part in spec.parts if id(part) not in known]

    for function, known, there, said in asked:
        assert there.tables and not strangers(there, known), said[:1000]
        assert repr(function()) == said, said[:1000]
    assert "transformers.modeling_utils" in sys.modules
    print("compared", len(asked))
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_fork_says_what_this_process_would_say_and_leaves_nothing_of_transformers_in_it(tmp_path):
    homes = [save_both_layouts(tmp_path / kind, kind) for kind in MODELS]
    pairs = [(str(home / "sft" / sft), str(home / "dpo" / dpo)) for home in homes for sft, dpo in PAIRS]
    differ = [pair for pair in pairs if not fits_as_stored(*(open_checkpoint(side).tensors for side in pair))]
    assert run(COMPARED, json.dumps(pairs)) == f"compared {len(differ)}\n"


EVERY_CLASS = """
    import hashlib, json, logging, sys
    from expo.planning import lean

    def built():
        import torch, transformers
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.models.auto import modeling_auto
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        found = {}
        for kind, names in modeling_auto.MODEL_MAPPING_NAMES.items():
            for name in [names] if isinstance(names, str) else names:
                try:
                    with torch.device("meta"):
                        model = getattr(transformers, name)(CONFIG_MAPPING[kind]())
                except Exception:
                    continue  # needs a package that is not there, or a config that says more
                shapes = {own: tuple(tensor.shape) for own, tensor in model.state_dict().items()}
                mapping = [(type(one).__name__, one.source_patterns, one.target_patterns)
                           for one in get_model_conversion_mapping(model, add_legacy=True)]
                found[name] = hashlib.sha256(repr((shapes, mapping)).encode()).hexdigest()
        return found

    logging.disable(logging.ERROR)
    if sys.argv[1] == "lean":
        built = lambda full=built: lean._leanly(full, lambda found: True)
    print(json.dumps(built()))
"""


@pytest.mark.slow
def test_every_model_class_has_the_names_shapes_and_conversions_that_the_full_transformers_gives_it():
    full, few = (json.loads(run(EVERY_CLASS, which).splitlines()[-1]) for which in ("full", "lean"))
    assert few == full
    assert len(full) > 300


def test_what_the_lean_transformers_cannot_say_is_asked_of_the_full_one(monkeypatch):
    """A model that needs scipy or the compiler while it is built is refused by the fork, and then built here."""
    monkeypatch.setattr(lean, "_FULL", "no.such.module")
    monkeypatch.setattr("expo.forks.is_safe", lambda: True)
    said = lean.apart(
        lambda: "scipy" in sys.modules and sys.modules["scipy"] is None, [], is_whole=lambda is_lean: True
    )
    assert said is True
    assert lean.apart(lambda: sys.modules.get("scipy", 1) is None, [], is_whole=lambda is_lean: not is_lean) is False


@pytest.mark.parametrize("name", lean._EMPTY)
def test_functions_of_empty_modules_do_nothing_to_what_is_known(name):
    module = lean._EmptyModule(name)
    assert module.expect_true(True) is True
    assert module.guard_or_false(False) is False
    assert module.sym_eq((2, 3), (2, 3)) and not module.sym_eq((2, 3), (3, 2))
    assert module.sym_or(False, True) and not module.sym_and(False, True)
    assert not module.is_nested_int(4) and module.has_guarding_hint(0)
    assert module.disable(len) is len
    assert module.disable(None, recursive=False)(len) is len
    assert not isinstance(3, module.SymInt)
    assert (int | module.Expr).__args__[0] is int
