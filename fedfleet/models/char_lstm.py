"""The network of McMahan et al. 2017 (arXiv:1602.05629, section 3) that predicts a text's next
character: an embedding of 8 numbers, two LSTM layers of 256 units, one answer per character.

As in LEAF (Caldas et al. 2018, arXiv:1812.01097) only the character after the whole sequence is
predicted. torch's LSTM has two bias vectors per layer where other libraries have one.

Legend: B = batch, T = characters of a sequence, E = numbers per character, F = units, K = classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedfleet.models.config import CharLstmOptions
from fedfleet.models.layers import scaled
from fedfleet.types import InputSpec


class CharLstm(nn.Module):
    """Embedding, LSTM layers, a dense layer on the last character's state."""

    def __init__(self, inputs: InputSpec, num_classes: int, options: CharLstmOptions) -> None:
        super().__init__()
        embedding = scaled(options.embedding, options.width)
        hidden = scaled(options.hidden, options.width)
        self.embedding = nn.Embedding(inputs.vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=options.layers, batch_first=True)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits, shape (B, K), of int64 token numbers."""
        states_BTF, _ = self.lstm(self.embedding(tokens_BT))
        logits_BK: Tensor = self.output(states_BTF[:, -1])
        return logits_BK


def build(inputs: InputSpec, num_classes: int, options: CharLstmOptions) -> nn.Module:
    """Build ``char_lstm``."""
    return CharLstm(inputs, num_classes, options)
