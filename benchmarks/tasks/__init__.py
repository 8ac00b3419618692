"""Tasks with labelled data or a reference, one file each: `subjects()` lists the models that do it."""
