from __future__ import annotations

from pathlib import Path

import pytest
from pass_graphs import built

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.text import print_module
from nomul.passes.base import Pass, Report
from nomul.passes.catalog import make_pass, make_passes, option_names
from nomul.passes.dump import Dump
from nomul.passes.encode import Encode
from nomul.passes.rewrite import Rewrite
from nomul.passes.runner import Fixpoint, PassRunner, Phase


def small() -> Module:
    return built(lambda g: g.b.ew.mul(g.b.ew.add(g.input("x", "S", 4), 1.0, name="sum"), 2.0))


class Nothing(Pass):
    name = "nothing"

    def run(self, module: Module, report: Report) -> None:
        report.note("a note")


class Breaks(Pass):
    name = "breaks"

    def run(self, module: Module, report: Report) -> None:
        module.main.nodes.reverse()


class Crashes(Pass):
    name = "crashes"

    def run(self, module: Module, report: Report) -> None:
        module.main.nodes.clear()
        raise ZeroDivisionError("oops")


class Cheats(Pass):
    """Exchanges a literal, so that results differ."""

    name = "cheats"

    def run(self, module: Module, report: Report) -> None:
        first = module.main.nodes[0]
        module.main.set_args(first, (first.args[0], first.args[0]))


class Lossy(Cheats):
    name = "lossy"
    exact = False


class Restless(Pass):
    name = "restless"

    def run(self, module: Module, report: Report) -> None:
        module.main.rename(module.main.nodes[0].result, module.main.nodes[0].result.name + "x")


def run(*passes: Pass, **options: object) -> PassRunner:
    runner = PassRunner(**options)  # type: ignore[arg-type]
    runner.run(small(), [Phase("p", tuple(passes))])
    return runner


def test_the_given_module_stays_as_it_is() -> None:
    module = small()
    before = print_module(module)
    PassRunner().run(module, [Phase("p", (Cheats(),))])
    assert print_module(module) == before


def test_records_say_what_changed() -> None:
    records = run(Nothing(), Cheats()).records
    assert [(record.name, record.phase, record.changed) for record in records] == [
        ("nothing", "p", False),
        ("cheats", "p", True),
    ]


@pytest.mark.parametrize(
    ("broken", "code", "words"),
    [
        (Breaks(), "NM451", "pass 'breaks' left an invalid module"),
        (Crashes(), "NM450", "pass 'crashes' crashed: ZeroDivisionError: oops"),
        (Fixpoint((Restless(),)), "NM453", "restless"),
    ],
)
def test_a_failing_pass_is_named(broken: Pass, code: str, words: str) -> None:
    with pytest.raises(NomulError) as error:
        run(Nothing(), broken)
    assert error.value.code == code
    assert words in str(error.value)


def test_a_broken_module_shows_the_guilty_line() -> None:
    with pytest.raises(NomulError) as error:
        run(Breaks())
    assert any("%sum is not defined" in problem.message for problem in error.value.problems)


def test_check_names_the_pass_that_changes_results() -> None:
    run(Cheats())
    with pytest.raises(NomulError, match="cheats") as error:
        run(Nothing(), Cheats(), Nothing(), check=True)
    assert error.value.code == "NM452"


def test_check_takes_a_lossy_pass_as_it_is() -> None:
    assert [record.name for record in run(Lossy(), Nothing(), check=True).records] == ["lossy", "nothing"]


def test_until_stops_behind_a_phase() -> None:
    runner = PassRunner()
    phases = [Phase("one", (Nothing(),)), Phase("two", (Crashes(),))]
    runner.run(small(), phases, until="one")
    assert [record.phase for record in runner.records] == ["one"]
    with pytest.raises(NomulError, match="there is no phase 'three'") as error:
        runner.run(small(), phases, until="three")
    assert error.value.code == "NM455"


def test_dump_holds_changed_modules_and_tables(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    run(Nothing(), Cheats(), dump=Dump(folder))
    names = {path.name for path in folder.iterdir()}
    assert names >= {"index.txt", "why.txt", "00.import.nir", "02.cheats.nir", "02.cheats.diff"}
    assert not any("nothing" in name for name in names)
    assert "a note" in (folder / "index.txt").read_text()
    assert "+  %sum = ew.add %x, %x" in (folder / "02.cheats.diff").read_text()


def test_a_crash_leaves_the_dump_of_the_passes_before(tmp_path: Path) -> None:
    with pytest.raises(NomulError):
        run(Cheats(), Crashes(), dump=Dump(tmp_path))
    assert (tmp_path / "01.cheats.nir").exists()
    assert "cheats" in (tmp_path / "index.txt").read_text()


def test_dump_cleans_what_a_dump_wrote_and_nothing_else(tmp_path: Path) -> None:
    first = Dump(tmp_path)
    first.write("kernels/a.ll", "text")
    Dump(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".nomul-dump"]
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(NomulError, match=r"thesis\.txt") as error:
        Dump(tmp_path)
    assert error.value.code == "NM454"
    assert (tmp_path / "thesis.txt").read_text() == "mine"


# -- lossy passes and options ------------------------------------------------------------------------------------
def linear() -> Module:
    return built(lambda g: g.b.nn.linear(g.input("x", "S", 32), g.weight("w", 16, 32)))


def test_check_reports_the_error_of_a_lossy_pass_and_holds_its_bound() -> None:
    encode = make_pass("encode{weights=int4<group=32>}")
    runner = PassRunner(check=True)
    runner.apply_all(linear(), [encode])
    (note,) = runner.records[0].report.notes
    error = float(note.rpartition(" ")[2])
    assert note.startswith("check: error of the outputs") and 0.01 < error < 0.2
    encode.bound = error * 1.01
    PassRunner(check=True).apply_all(linear(), [encode])
    encode.bound = error * 0.99
    with pytest.raises(NomulError, match="pass 'encode' changes output 0 by") as caught:
        PassRunner(check=True).apply_all(linear(), [encode])
    assert caught.value.code == "NM461"


def test_a_result_that_the_interpreter_cannot_run_is_the_fault_of_the_pass() -> None:
    class Forget(Pass):
        name = "forget"

        def run(self, module: Module, report: Report) -> None:
            weight = module.weights["w"]
            weight.fields = {}
            module.main.rename(module.main.nodes[0].result, "other")

    with pytest.raises(NomulError, match="pass 'forget': the interpreter cannot run its result") as error:
        PassRunner(check=True, reduce_seconds=1).apply_all(linear(), [Forget()])
    assert error.value.code == "NM452"


def test_passes_take_options() -> None:
    names = [item.name for item in make_passes('simplify, encode{weights="ternary<planes=2, group=32>"},dead_code')]
    assert names == ["simplify", "encode", "dead_code"]
    assert option_names("encode") == ["weights", "match", "role", "fitter", "act"]
    only = make_pass("fuse{only=layer_norm+rms_norm}")
    assert isinstance(only, Rewrite) and {rule.name for rule in only.rules} == {"layer_norm", "rms_norm"}
    encode = make_pass("encode{weights=ternary<planes=2, group=32>, match=*, act=i8}")
    assert isinstance(encode, Encode)
    (rule,) = encode.recipe.rules
    assert (str(rule.encoding), rule.match, rule.act) == ("ternary<planes=2, group=32>", "*", "i8")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("fuze", "NM456", "did you mean fuse?"),
        ("fuse{only=layer_norm", "NM463", "the brace is not closed"),
        ("fuse{only=nothing}", "NM463", "'nothing' is none of"),
        ("fuse{only}", "NM463", "'only' is not NAME=VALUE"),
        ("dead_code{x=1}", "NM463", "options: none"),
        ("encode{weights=int5}", "NM463", "options: weights, match"),
        ("encode{act=i9}", "NM463", "'i9' is none of f32, i8, i8-static"),
    ],
)
def test_wrong_options_are_named(text: str, code: str, words: str) -> None:
    with pytest.raises(NomulError) as error:
        make_pass(text)
    assert error.value.code == code and words in str(error.value)
