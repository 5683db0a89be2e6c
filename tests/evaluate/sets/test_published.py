"""Published image encoders as embeddings: their own answer is the oracle; code of others and pickles are refused."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, ConvNextConfig, ConvNextModel, ViTConfig, ViTModel

from fabrica.cli.options import embedding_in
from fabrica.evaluate.sets.embedding import BINS, Picture
from fabrica.evaluate.sets.published import _pooled, from_folder

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}


def _saved(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    if kind == "vit":
        net = ViTModel(ViTConfig(**SMALL, patch_size=8))
    elif kind == "vit without pooling":
        net = ViTModel(ViTConfig(**SMALL, patch_size=8), add_pooling_layer=False)
    else:
        net = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32))
    net.save_pretrained(folder)
    return folder


def _picture() -> Picture:
    plane = np.random.default_rng(0).random((32, 32))
    return Picture("a", "a", plane, np.ones((32, 32), bool), (1.0, 1.0))


@pytest.mark.parametrize("kind", ["vit", "vit without pooling", "convnext"])
@torch.no_grad()
def test_the_encoders_own_answer(tmp_path: Path, kind: str) -> None:
    folder = _saved(tmp_path / "net", kind)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]})
    )
    ((name, how),) = embedding_in(folder).items()
    assert name.startswith("net (")
    picture = _picture()
    found = how(picture, 1 / BINS)
    net = ViTModel.from_pretrained(folder) if kind == "vit" else None
    scaled = torch.from_numpy(picture.values - np.percentile(picture.values, 1)).float()
    x = (scaled.expand(3, 32, 32) - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[
        :, None, None
    ]
    if net is not None:
        np.testing.assert_allclose(found, net.eval()(pixel_values=x[None]).pooler_output[0], rtol=1e-4, atol=1e-5)
    else:
        assert found.shape == (16,) if kind == "convnext" else (32,)
    assert not np.allclose(
        found, how(Picture("b", "b", picture.values[::-1].copy(), picture.inside, (1.0, 1.0)), 1 / BINS)
    )


def test_what_is_not_read(tmp_path: Path) -> None:
    folder = _saved(tmp_path / "net", "vit")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ValueError, match="needs code of its own, which is not run"):
        from_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        from_folder(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2]}))
    with pytest.raises(ValueError, match="2 numbers of normalisation"):
        from_folder(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        from_folder(folder)
    words = tmp_path / "words"
    BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    ).save_pretrained(words)
    with pytest.raises(ValueError, match="is no encoder of images"):
        from_folder(words)


def test_networks_that_say_nothing_of_pooling_are_pooled_by_their_mean() -> None:
    tokens, planes = torch.rand(1, 5, 8), torch.rand(1, 8, 4, 4)
    torch.testing.assert_close(_pooled(SimpleNamespace(last_hidden_state=tokens)), tokens.mean(1)[0])
    torch.testing.assert_close(_pooled(SimpleNamespace(last_hidden_state=planes)), planes.mean((2, 3))[0])


def test_a_folder_that_transformers_cannot_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _saved(tmp_path / "net", "vit")
    weights = folder / "model.safetensors"
    own = weights.read_bytes()
    weights.write_bytes(own[:100])
    with pytest.raises(ValueError, match="cannot be read by transformers"):
        from_folder(folder)
    weights.write_bytes(own)
    (folder / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no mapping"):
        from_folder(folder)
    (folder / "preprocessor_config.json").unlink()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="transformers, which .* needs, is not installed"):
        from_folder(folder)
