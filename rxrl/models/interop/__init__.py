"""Exchange with others: the Hugging Face Hub and the published checkpoint layout."""
