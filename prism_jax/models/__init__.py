"""The model families: embeddings, heads, and the table of Hugging Face names of each."""
