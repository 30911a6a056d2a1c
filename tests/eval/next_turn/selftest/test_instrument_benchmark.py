import json

from benchmarks import instrument
from tests.eval.next_turn.selftest.stand_ins import instruments
from tests.eval.next_turn.selftest.test_next_turn_selftest import varied
from usersim.storage.records import write_records


def test_the_benchmark_writes_flat_keys_without_chat_text(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(instrument, "instruments", lambda chosen, config: instruments(chosen.material))
    file, out = tmp_path / "people.jsonl", tmp_path / "out.json"
    write_records(file, varied(60))
    instrument.main(["--quick", "--human", str(file), "--json-out", str(out)])
    found = json.loads(out.read_text())
    assert found["planted_caught"]["deaf"] is True
    assert 0 <= found["human_false_positives"] <= 0.05
    assert found["n"] == found["minutes_n"] == 60
    assert found["minutes_200"] > 0
    assert found["memory_gib"] > 0
    assert "about bread" not in out.read_text()
