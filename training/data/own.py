"""Users' own files: CoNLL for tagging, CSV, TSV or JSON lines for classification, plain text for language models.

Every error names the file, the line, what is wrong and the remedy.
"""

from training.data.conll import read_tagged
from training.data.plain import read_text
from training.data.splitting import split, split_text
from training.data.tables import read_labelled

__all__ = ["read_labelled", "read_tagged", "read_text", "split", "split_text"]
