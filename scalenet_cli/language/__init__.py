"""Language models: records of text, tokenizers, and what is measured on them."""
