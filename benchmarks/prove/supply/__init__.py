"""Supply chain: what bundles are made of, known vulnerabilities, wheels that can be made again."""
