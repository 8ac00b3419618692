"""The accuracy report of a compile: what each layer and the whole model lose by the encodings of a recipe."""
