import json

from codescaler.cli import main
from codescaler.engine import Engine
from codescaler.testing import save_chat, save_random_checkpoint


def test_writes_a_folder_and_says_what_stayed(tmp_path, capsys):
    save_random_checkpoint(tmp_path / "plain", "llama", vocab_size=260)
    save_chat(tmp_path / "plain")
    assert main(["quantize", str(tmp_path / "plain"), str(tmp_path / "int8")]) == 0
    printed = capsys.readouterr().out
    assert "MB, 1 before" in printed or "MB, 0 before" in printed
    assert "of 12 linear layers" in printed
    assert Engine.from_pretrained(tmp_path / "int8").quantization == "int8"
    assert main(["quantize", str(tmp_path / "plain"), str(tmp_path / "int8")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "plain"), str(tmp_path / "other"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    options = ["--limit", "inf", "--dtype", "bfloat16", "--json"]
    assert main(["quantize", str(tmp_path / "plain"), str(tmp_path / "least"), *options]) == 0
    least = json.loads(capsys.readouterr().out)
    assert not least["kept"] and least["bytes_after"] < report["bytes_after"]
    assert report["bytes_after"] < report["bytes_before"]


def test_writes_int4_and_refuses_what_int4_has_not(tmp_path, capsys):
    save_random_checkpoint(
        tmp_path / "plain", "llama", vocab_size=260, intermediate_size=128, max_position_embeddings=4096
    )
    save_chat(tmp_path / "plain")
    arguments = ["quantize", str(tmp_path / "plain"), str(tmp_path / "int4"), "--quantization", "int4"]
    assert main([*arguments, "--group-size", "32"]) == 0
    assert "4 bits: all linear layers, with a scale for 32 inputs" in capsys.readouterr().out
    assert Engine.from_pretrained(tmp_path / "int4").quantization is None
    for option in (["--limit", "0.1"], ["--activation-bits", "8"], ["--dtype", "float32"]):
        assert main([*arguments, *option]) == 2
        assert f"int4 has no {option[0][2:].replace('-', '_')}" in capsys.readouterr().err
    assert main([*arguments[:3], "--group-size", "32"]) == 2
    assert "group_size is of int4 alone" in capsys.readouterr().err
