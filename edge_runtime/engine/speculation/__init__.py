"""Several tokens a pass: drafts guessed from the text, checked by the model, kept only while that is faster."""
