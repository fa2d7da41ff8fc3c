"""All hostile inputs that are made quickly, through `prepare` at once; `bench.hostile` runs the rest."""

import hostile
import pytest
from hostile_bytes import opus_hours

from tunesmith.data import prepare
from tunesmith.data.recording import BadRecording, Recording


def test_every_hostile_input_is_named_and_no_good_one_is_lost(tmp_path, capfd):
    made = hostile.build(tmp_path / "src", slow=False)
    assert len(made) >= 100
    prepare(tmp_path / "src", tmp_path / "data", min_s=2.0, max_s=5.0, workers=2)
    assert hostile.judge(tmp_path / "data", made) == []
    assert "Traceback" not in "".join(capfd.readouterr())
    assert {path.name for path in tmp_path.iterdir()} == {"src", "data"}


def test_opus_bombs_are_what_they_seem(tmp_path):
    path = tmp_path / "x.opus"
    path.write_bytes(opus_hours(0.02))
    with Recording(path) as recording:
        assert sum(map(len, recording.blocks())) == pytest.approx(61.2 * 48_000, rel=0.01)
    path.write_bytes(opus_hours(8.1))
    assert path.stat().st_size < 1 << 20
    with Recording(path) as recording, pytest.raises(BadRecording, match="hours long"):
        next(iter(recording.blocks()))
