"""Files of inputs: text, tables and JSON. Training and `seqserve predict` share these readers."""
