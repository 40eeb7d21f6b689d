import torch

from modules.heads import LMHead, PooledClassifier
from modules.model import Model
from modules.transformer import Decoder, EncoderDecoder


def test_a_model_is_its_head_on_its_backbone(build, ids):
    backbone, batch = build(Decoder), {"input_ids": ids(2, 6)}
    words, classes = (
        Model(backbone, LMHead(backbone.embedding)),
        Model(backbone, PooledClassifier(32, n_classes=3)),
    )
    assert torch.equal(words.hidden(batch), backbone(batch))
    assert torch.equal(words(batch), words.head(backbone(batch)))
    assert classes(batch).shape == (2, 3)


def test_logits_of_an_encoder_decoder_are_those_of_the_decoder_side(build, ids):
    backbone = build(EncoderDecoder)
    batch = {"input_ids": ids(2, 6), "decoder_input_ids": ids(2, 4)}
    assert Model(backbone, LMHead(backbone.embedding))(batch).shape == (2, 4, 50)
