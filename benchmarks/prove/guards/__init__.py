"""Guards are taken out of the product one by one; the corpus must notice each."""
