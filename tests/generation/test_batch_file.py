"""Lists of clips: TOML and CSV, and errors that name file and line."""

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.generation.batch_file import jobs_of_list, read_list
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from tests.model_store.test_model import write_model

TOML = """# clips
[[clip]]
game = "A"
length = 2

[[clip]]  # the second
game = ["A:0.7", "B:0.3"]
seed = 4
cfg-interval = "0.5:9"
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(write_model(tmp_path_factory.mktemp("models")), device="cpu", precision="float32")


def written(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_toml_and_csv_say_the_same(tmp_path, pipeline):
    csv = 'game,length,seed,cfg-interval\nA,2,,\n"A:0.7,B:0.3",,4,0.5:9\n'
    lists = [read_list(written(tmp_path, *named)) for named in (("a.toml", TOML), ("b.csv", csv))]
    toml_jobs, csv_jobs = (jobs_of_list(rows, {"steps": 3}, pipeline, GenerateConfig(), {}) for rows in lists)
    assert toml_jobs == csv_jobs
    assert [job.name for job in toml_jobs] == ["000-a-seed0-00.flac", "001-a+b-seed4-00.flac"]
    first, second = (job.request for job in toml_jobs)
    assert (first.length_s, first.config.steps, first.config.cfg_sigma_max) == (2, 3, 1000)
    assert (second.length_s, second.seed, second.games) == (45, 4, {"A": 0.7, "B": 0.3})
    assert (second.config.cfg_sigma_min, second.config.cfg_sigma_max) == (0.5, 9)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_list_as_spreadsheets_write_it(tmp_path, pipeline, encoding, delimiter):
    rows = [
        ["GAME", "Length", "Seed", "CFG Interval", "steps_between"],
        ["A:0.7,B:0.3", "2,5", "4", "0.5:9", ""],
        [""] * 5,
    ]
    (tmp_path / "a.csv").write_bytes("\r\n".join(map(delimiter.join, rows)).encode(encoding))
    (job,) = jobs_of_list(read_list(tmp_path / "a.csv"), {"steps": 3}, pipeline, GenerateConfig(), {})
    assert (job.request.games, job.request.length_s, job.request.seed) == ({"A": 0.7, "B": 0.3}, 2.5, 4)
    assert job.request.config.cfg_sigma_max == 9


def test_a_row_goes_over_the_flags_of_the_command_and_counts_and_sweeps(tmp_path, pipeline):
    path = written(tmp_path, "a.toml", '[[clip]]\ncount = 2\n[[clip]]\nsweep = "A..B"\nsteps-between = 3\nseed = 8\n')
    jobs = jobs_of_list(read_list(path), {"seed": 5, "format": "ogg"}, pipeline, GenerateConfig(), {})
    assert [job.request.seed for job in jobs] == [5, 6, 8, 8, 8]
    assert len({job.name for job in jobs}) == 5
    assert all(job.name.endswith(".ogg") for job in jobs)


EDITS = """
[[clip]]
loop = true
intro = 1.5
[[clip]]
extend = ["a b.flac", 2]
[[clip]]
inpaint = ["sub/c.flac", "0.5:1"]
[[clip]]
morph = ["a b.flac", "sub/c.flac"]
strength = 0.5
"""
EDITS_CSV = """loop,intro,extend,inpaint,morph,strength
yes,1.5,,,,
no,,"'a b.flac' 2",,,
,,,sub/c.flac 0.5:1,,
,,,,"'a b.flac' sub/c.flac",0.5
"""


def test_rows_loop_and_work_on_given_clips(tmp_path, pipeline):
    (tmp_path / "sub").mkdir()
    for name, seed in (("a b.flac", 1), ("sub/c.flac", 2)):
        noise = 0.1 * torch.randn(2, 64000, generator=torch.Generator().manual_seed(seed))
        audio.write(tmp_path / name, noise, 32000)
    found = []
    for name, text in (("a.toml", EDITS), ("b.csv", EDITS_CSV)):
        jobs = jobs_of_list(read_list(written(tmp_path, name, text)), {}, pipeline, GenerateConfig(), {})
        found.append([job.request.facts() for job in jobs])
        loop, on, mended, led = (job.request for job in jobs)
        assert (loop.loop, loop.intro_s) == (True, 1.5)
        assert (on.rewrite.start_s, on.rewrite.end_s, on.rewrite.clip.file) == (2.0, 4.0, "a b.flac")
        assert (mended.rewrite.start_s, mended.rewrite.end_s, mended.loop) == (0.5, 1.0, False)
        assert (led.init.file, led.morph.file, led.strength) == ("a b.flac", "c.flac", 0.5)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", TOML + 'steps = "x"\n', 'a.toml, line 10: steps = "x" is not a whole number'),
        ("a.toml", TOML + "steps = 0\n", "a.toml, line 10: steps = 0 is out of range"),
        ("a.toml", TOML + "lenght = 3\n", 'a.toml, line 10: there is no "lenght" in a list'),
        ("a.toml", TOML.replace('"A"', '"C"'), 'a.toml, line 3: "C" is not a game'),
        ("a.toml", TOML.replace('"A"', '"A:0"'), "a.toml, line 2: the weights of all games are zero"),
        ("a.toml", TOML.replace('"A"', "3"), "a.toml, line 3: game is not a text"),
        ("a.toml", TOML.replace("seed = 4", "seed = -4"), "a.toml, line 8: seed = -4 is out of range"),
        ("a.toml", TOML + 'name = "../../x"\n', 'a.toml, line 10: "../../x" is not a file name'),
        ("a.toml", TOML + 'name = "/root/x"\n', 'a.toml, line 10: "/root/x" is not a file name'),
        ("a.toml", TOML + 'name = ".."\n', 'a.toml, line 10: ".." is not a file name'),
        ("a.toml", TOML + 'init = "../../x.flac"\n', 'a.toml, line 10: "../../x.flac" leads out of the folder'),
        ("a.toml", TOML + 'init = "/etc/passwd"\n', 'a.toml, line 10: "/etc/passwd" leads out of the folder'),
        ("a.toml", TOML + 'from = "C:\\\\x"\n', "leads out of the folder"),
        ("a.toml", TOML + 'init = "gone.flac"\n', "gone.flac does not exist"),
        ("a.toml", TOML + "= 3\n", "is not valid TOML"),
        ("a.toml", "[clip]\ngame = 3\n", "a.toml, line 1: not a table [[clip]]"),
        ("a.toml", "steps = 4\n" + TOML, "a.toml, line 1: not a table [[clip]]"),
        ("a.toml", TOML + "loop = 1\n", "a.toml, line 10: loop is neither true nor false"),
        ("a.csv", "game,loop\nA,maybe\n", "a.csv, line 2: loop is neither true nor false"),
        ("a.toml", TOML + "intro = 2.0\n", "--intro leads into a loop"),
        ("a.toml", TOML + 'extend = "a.flac"\n', "a.toml, line 10: extend is not a file and seconds"),
        ("a.toml", TOML + 'extend = ["a.flac", true]\n', "a.toml, line 10: extend is not a file and seconds"),
        ("a.toml", TOML + 'extend = ["../a.flac", 2]\n', 'line 10: "../a.flac" leads out of the folder'),
        ("a.toml", TOML + 'morph = ["a.flac", "/b.flac"]\n', 'line 10: "/b.flac" leads out of the folder'),
        ("a.csv", "inpaint\na.flac\n", "a.csv, line 2: inpaint is not a file and START:END"),
        ("a.csv", "extend\na.flac soon\n", "a.csv, line 2: extend is not a file and seconds"),
        ("a.csv", "morph\n'a.flac b.flac\n", "a.csv, line 2: morph is not two files"),
        ("a.csv", "loop,extend\nyes,a.flac 2\n", "--loop and --extend cannot stand together"),
        ("a.toml", "", "holds no clip"),
        ("a.csv", "game\n", "holds no clip"),
        ("a.csv", "game,steps\nA,0\n", "a.csv, line 2: steps = 0 is out of range"),
        ("a.csv", "game,steps\n\nA,many\n", 'a.csv, line 3: steps = "many" is not a whole number'),
        ("a.csv", "game,length\nA,nan\n", "a.csv, line 2: length_s = nan is not a finite number"),
        ("a.csv", "game,seed\nA:0.7,B:0.3,1\n", "a.csv, line 2: 3 cells under 2 headings"),
        ("a.csv", 'game\n"A\n', "a.csv, line"),
        ("a.csv", "gaem\nA\n", 'there is no "gaem" in a list'),
        ("a.txt", "game\nA\n", "ends in neither .toml nor .csv"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path, pipeline, name, text, message):
    path = written(tmp_path, name, text)
    with pytest.raises(DataError) as caught:
        jobs_of_list(read_list(path), {}, pipeline, GenerateConfig(), {})
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\x00\x01\x02")
    with pytest.raises(DataError, match="not UTF-8"):
        read_list(tmp_path / "a.csv")
