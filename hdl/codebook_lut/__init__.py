"""From the packed bit stream to rows of weights: unpacker, codebook register file (CRF), mask decoding, row rebuild."""
