"""Text to token ids and back: the byte-level BPE, its training, the chat format and its parser. No torch in here."""

from minimind.tokenizer.bpe import Tokenizer

__all__ = ["Tokenizer"]
